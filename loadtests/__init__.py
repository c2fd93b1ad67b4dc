"""Load on an OpenAI-compatible server, and the side-by-side benchmark.

locust -f loadtests/locustfile.py --help       # users against any such server
python -m loadtests.load --help                # one run of load and its report
python -m loadtests.check --help               # whether a run kept its objectives
python -m loadtests.soak --help                # a long load, and what the server lost in it
python -m loadtests.bench --help               # stock vLLM's server and ours, turn by turn
python -m loadtests.replicas --help            # replicas under a trace, against the simulation
python -m loadtests.simulate --help            # how many replicas, slots and places are needed
python -m loadtests.report --help              # docs/benchmarks.md from the results
"""
