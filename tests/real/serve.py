"""serve.py: llama.cpp's own server, started with llama-server's options.

The package xllamacpp is that server as a library: its HTTP, its metrics, its slots, in this process. Only the command line is ours.
"""

import argparse
import os
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import xllamacpp  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--metrics", action="store_true")
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames = [given.host]
    params.port = given.port
    params.endpoint_metrics = given.metrics
    params.n_parallel = 2
    # More spin while they wait for each other, on a machine that does other things too.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    # As llama-server does (common/arg.cpp).
    if key := os.environ.get("LLAMA_API_KEY"):
        params.api_keys = [key]
    server = xllamacpp.Server(params)
    print("listens on", server.listening_address, flush=True)
    # SIGTERM ends it as it ends any program that does not ask for it.
    threading.Event().wait()


main()
