"""False alarms and detection rate of the roll-out watch, in simulated roll-outs of one minute.

python -m bench.watch [ROLL-OUTS]
"""

import sys

from tests.monitoring.test_revision_comparison import roll_out

FAULTS = {
    "5 % errors": {"errors": 0.05},
    "three times slower": {"slowdown": 3.0},
    "only one class answered": {"shares": (0.0,) * 4 + (1.0,) + (0.0,) * 5},
}
RATES = (10, 20, 40)
"""Requests per second."""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for changing in (False, True):
        alarms = sum(bool(roll_out(10_000 + seed, changing=changing)[0]) for seed in range(count))
        traffic = "changing" if changing else "constant"
        print(f"equally good version, {traffic} traffic: {alarms} of {count} rolled back")
    for rate in RATES:
        for name, fault in FAULTS.items():
            outcomes = [roll_out(seed, rate=rate, **fault) for seed in range(200)]
            found = sorted(answers for reason, answers in outcomes if reason)
            median = f", median after {found[len(found) // 2]} answers" if found else ""
            print(f"{name}, {rate} requests per second: {len(found) / 2:g} % detected{median}")


if __name__ == "__main__":
    main()
