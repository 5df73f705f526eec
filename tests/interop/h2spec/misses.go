package main

// skipped is the outcome of a test that did not find what it needs in order to begin.
const skipped = "skipped"

// leastTests is how many there are in the release of h2spec that go.mod pins. With fewer, nothing was shown.
const leastTests = 146

// h2spec's requests have no token and are no gRPC, and it cannot be told to make others. So each of them is refused, at once. Where
// refusals have a body (external authorization, and the proxy, in which it is a request of plain HTTP), no test of HTTP/2 is missed.
// Ports that take nothing but gRPC refuse with a status in the headers alone. It is all that they miss.
const (
	noData = "the refusal has no body, and without one there is no data that a window could hold back"
	noTwo  = "each refusal is whole before the next request is read, so that there are never too many streams; that those beyond " +
		"the limit are refused, tests/integration/tests/floods shows (G26)"
	http1 = "what does not begin as HTTP/2 does may be HTTP/1.1, which this port takes, too: it is answered with 400 in that, and then " +
		"the connection is closed"
)

// miss is a test that is failed.
type miss struct {
	// outcome is how what is done instead begins.
	outcome string
	why     string
	// sometimes is whether it may pass as well.
	sometimes bool
}

// misses are all of them, by the kind of port, and by section of h2spec and number.
var misses = map[string]map[string]miss{
	"none": {},
	"bodiless": {
		"generic/2/2":   {outcome: "HEADERS Frame", why: noData},
		"generic/2/3":   {outcome: "HEADERS Frame", why: noData},
		"http2/5.1.2/1": {outcome: "HEADERS Frame", why: noTwo, sometimes: true},
		"http2/6.5.3/1": {outcome: skipped, why: noData},
		"http2/6.9.1/1": {outcome: skipped, why: noData},
		"http2/6.9.2/1": {outcome: skipped, why: noData},
		"http2/6.9.2/2": {outcome: skipped, why: noData},
	},
	"http1": {
		// The client takes the answer for a frame.
		"http2/3.5/2": {
			outcome: "Error: http2: failed reading the frame payload: unexpected EOF, note that the frame header looked like an HTTP/1.1 header",
			why:     http1,
		},
	},
}

// races are tests that send something wrong after a request, on its stream. If the request has been refused by then, the stream
// is over, and there is nobody left to say what was wrong. They are made again until the wrong comes first.
var races = map[string]bool{
	"http2/5.1/8":     true,
	"http2/5.1/9":     true,
	"http2/6.9.1/3":   true,
	"http2/8.1/1":     true,
	"http2/8.1.2.1/3": true,
	"http2/8.1.2.6/1": true,
	"http2/8.1.2.6/2": true,
}

// attempts are how often such a test is made before it counts as failed. One in five is lost.
const attempts = 50
