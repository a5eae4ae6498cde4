"""How often the watch of a roll-out is wrong, and what it finds, in simulated roll-outs of a minute.

python -m bench.watch [ROLL-OUTS]
"""

import sys

from tests.test_revisions import roll_out

FAULTS = {
    "5 % errors": {"errors": 0.05},
    "three times as slow": {"slowdown": 3.0},
    "one class": {"shares": (0.0,) * 4 + (1.0,) + (0.0,) * 5},
}
RATES = (10, 20, 40)
"""Requests a second."""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for changing in (False, True):
        wrong = sum(bool(roll_out(10_000 + seed, changing=changing)[0]) for seed in range(count))
        traffic = "that changes" if changing else "that stays"
        print(f"equally good, traffic {traffic}: {wrong} of {count} turned back")
    for rate in RATES:
        for name, fault in FAULTS.items():
            outcomes = [roll_out(seed, rate=rate, **fault) for seed in range(200)]
            found = sorted(answers for reason, answers in outcomes if reason)
            after = f", half of them within {found[len(found) // 2]} answers" if found else ""
            print(f"{name}, {rate} requests a second: {len(found) / 2:g} % found{after}")


if __name__ == "__main__":
    main()
