"""Several processes of several threads on the same cores: seconds and processor seconds, as OpenMP's threads wait.

Each process runs small convolutions, such as those of the starter's denoiser, many times.
"""

import os
import subprocess
import sys

from measure import options, report, run

WAYS = {"as OpenMP does": {}, "asleep, as largegen does": {"OMP_WAIT_POLICY": "passive"}}
SETTINGS = [(1, 1), (1, 2), (2, 1), (2, 2)]  # processes, threads of each
PROGRAM = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
layers = [(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.GroupNorm(8, 64), torch.nn.SiLU()) for _ in range(6)]
net = torch.nn.Sequential(*[layer for three in layers for layer in three]).to(memory_format=torch.channels_last)
x = torch.randn(8, 64, 16, 16).to(memory_format=torch.channels_last)
with torch.inference_mode():
    net(x)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(sys.argv[2])):
        net(x)
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def main() -> None:
    parser = options(__doc__, needs_ref=False)
    parser.add_argument("--calls", type=int, default=50)
    args = parser.parse_args()
    rows = []
    for name, how in WAYS.items():
        for processes, threads in SETTINGS:
            command = [sys.executable, "-c", PROGRAM, str(threads), str(args.calls)]
            both = [
                subprocess.Popen(command, env=os.environ | how, stdout=subprocess.PIPE, text=True)
                for _ in range(processes)
            ]
            found = [tuple(map(float, process.communicate()[0].split())) for process in both]
            rows.append(
                {
                    "threads wait": name,
                    "processes": processes,
                    "threads of each": threads,
                    "seconds": max(wall for wall, _ in found),
                    "processor seconds of each": max(cpu for _, cpu in found),
                }
            )
    report(rows, args.json, calls=args.calls)


if __name__ == "__main__":
    run(main)
