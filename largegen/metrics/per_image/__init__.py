"""Figures of generated images one by one."""
