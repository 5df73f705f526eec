"""Asks a sidecar about the tokens on stdin, one in each line, and prints one line for each.

    python verify.py one|batch|stream TARGET METHOD <tokens

TARGET is unix:///run/countersign-sidecar/verify.sock, or host:port on loopback. docs/verify-api.md goes through it.
"""

import sys

import grpc

from countersign.verify.v1 import verify_pb2 as pb
from countersign.verify.v1 import verify_pb2_grpc

# Without an answer there is no permission, so nobody waits for one for long.
TIMEOUT = 5


def one(sidecar, questions):
    """One call for each question: what a service does that is called once."""
    for question in questions:
        yield sidecar.Verify(question, timeout=TIMEOUT)


def batch(sidecar, questions):
    """One call for all of them: up to 1024."""
    return sidecar.VerifyBatch(pb.VerifyBatchRequest(requests=questions), timeout=TIMEOUT).responses


def stream(sidecar, questions):
    """One call that stays open. Questions go out without waiting for answers, which come in the same order."""
    asked = ahead = 0

    def ask():
        nonlocal asked
        for question in questions:
            asked += 1
            yield pb.VerifyStreamRequest(request=question)

    for answered, answer in enumerate(sidecar.VerifyStream(ask(), timeout=60)):
        ahead = max(ahead, asked - answered)
        yield answer.response
    print(f"at most {ahead} without an answer", file=sys.stderr)


def verdict(response):
    """What the answer says. Whatever is not `allowed` is refused."""
    if response.WhichOneof("verdict") == "allowed":
        return f"allowed {response.allowed.client_id} {response.allowed.token_id}"
    return f"refused {response.refused.reason}"


def main():
    form = {"one": one, "batch": batch, "stream": stream}[sys.argv[1]]
    target, method = sys.argv[2:]
    questions = [pb.VerifyRequest(token=line.rstrip("\n"), path=method) for line in sys.stdin]
    # The name is sent as the authority of the call; the library makes one of the socket's path that no server takes.
    with grpc.insecure_channel(target, options=[("grpc.default_authority", "localhost")]) as channel:
        sidecar = verify_pb2_grpc.VerifyServiceStub(channel)
        try:
            for response in form(sidecar, questions):
                print(verdict(response))
        except grpc.RpcError as error:
            # No verdict: the question was not understood, or nobody answered. Not allowed.
            sys.exit(f"no answer: {error.code().name}")


main()
