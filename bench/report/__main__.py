"""Run `bench.report.render` as `python -m bench.report`."""

from bench.report.render import main

if __name__ == "__main__":
    raise SystemExit(main())
