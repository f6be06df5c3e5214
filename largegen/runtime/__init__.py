"""What every long job needs: devices, files, locks, downloads, several processes."""
