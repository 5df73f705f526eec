// Asks a sidecar about the tokens on stdin, one in each line, and prints one line for each.
//
//	verify one|batch|stream TARGET METHOD <tokens
//
// TARGET is unix:///run/countersign-sidecar/verify.sock, or host:port on loopback. docs/verify-api.md goes through it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "countersign.example/interop/verifyv1"
)

// Without an answer there is no permission, so nobody waits for one for long.
const timeout = 5 * time.Second

// One call for each question: what a service does that is called once.
func one(sidecar pb.VerifyServiceClient, questions []*pb.VerifyRequest) error {
	for _, question := range questions {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		response, err := sidecar.Verify(ctx, question)
		cancel()
		if err != nil {
			return err
		}
		fmt.Println(verdict(response))
	}
	return nil
}

// One call for all of them: up to 1024.
func batch(sidecar pb.VerifyServiceClient, questions []*pb.VerifyRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	answer, err := sidecar.VerifyBatch(ctx, &pb.VerifyBatchRequest{Requests: questions})
	if err != nil {
		return err
	}
	for _, response := range answer.Responses {
		fmt.Println(verdict(response))
	}
	return nil
}

// One call that stays open. Questions go out without waiting for answers, which come in the same order.
func stream(sidecar pb.VerifyServiceClient, questions []*pb.VerifyRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	call, err := sidecar.VerifyStream(ctx)
	if err != nil {
		return err
	}
	var asked atomic.Int64
	go func() {
		for _, question := range questions {
			// What went wrong, Recv says.
			if call.Send(&pb.VerifyStreamRequest{Request: question}) != nil {
				return
			}
			asked.Add(1)
		}
		call.CloseSend()
	}()
	var ahead int64
	for answered := int64(0); ; answered++ {
		answer, err := call.Recv()
		if errors.Is(err, io.EOF) {
			fmt.Fprintf(os.Stderr, "at most %d without an answer\n", ahead)
			return nil
		}
		if err != nil {
			return err
		}
		ahead = max(ahead, asked.Load()-answered)
		fmt.Println(verdict(answer.Response))
	}
}

// What the answer says. Whatever is not `allowed` is refused.
func verdict(response *pb.VerifyResponse) string {
	if allowed := response.GetAllowed(); allowed != nil {
		return "allowed " + allowed.ClientId + " " + allowed.TokenId
	}
	return "refused " + response.GetRefused().GetReason()
}

func main() {
	if len(os.Args) != 4 {
		fail("verify one|batch|stream TARGET METHOD")
	}
	forms := map[string]func(pb.VerifyServiceClient, []*pb.VerifyRequest) error{"one": one, "batch": batch, "stream": stream}
	form, known := forms[os.Args[1]]
	if !known {
		fail("no form " + os.Args[1])
	}
	var questions []*pb.VerifyRequest
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		questions = append(questions, &pb.VerifyRequest{Token: lines.Text(), Path: os.Args[3]})
	}
	if err := lines.Err(); err != nil {
		fail(err.Error())
	}
	channel, err := grpc.NewClient(os.Args[2], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fail(err.Error())
	}
	defer channel.Close()
	if err := form(pb.NewVerifyServiceClient(channel), questions); err != nil {
		// No verdict: the question was not understood, or nobody answered. Not allowed.
		fail("no answer: " + status.Code(err).String())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
