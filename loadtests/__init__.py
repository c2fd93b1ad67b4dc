"""Load on an OpenAI-compatible server, and the side-by-side benchmark.

locust -f loadtests/locustfile.py --help       # users against any such server
python -m loadtests.bench --help               # stock vLLM's server and ours, turn by turn
"""
