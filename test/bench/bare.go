package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// bareArg makes this program the yardstick of cached reads: an HTTP server of the standard library with a handler that
// does nothing but answer.
const bareArg = "serve-bare"

// labelled is what the argument of serve-bare begins with where the answers have the headers of a reply of the product's.
const labelled = "labelled-"

// bare is that server as a process of its own, answering with a value of as many bytes as the keys have. With labels its
// answers have as many headers as those of the product, which is what the contract of a read takes of net/http.
func bare(value int, labels bool) (*system, error) {
	arg := strconv.Itoa(value)
	if labels {
		arg = labelled + arg
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return &system{
		name: "net/http", bin: self, ready: askOK("/readyz"),
		args: func(_ string, port, _ int) []string { return []string{bareArg, loopback(port), arg} },
	}, nil
}

// serve is what the arguments ask this program to be instead of a bench; false: nothing.
func serve(args []string) (bool, error) {
	if len(args) != 3 {
		return false, nil
	}
	switch args[0] {
	case bareArg:
		return true, serveBare(args[1], args[2])
	case floorArg:
		return true, serveFloor(args[1], args[2])
	case journalArg:
		return true, serveJournal(args[1], args[2])
	case floodArg:
		return true, serveFlood(args[1], args[2])
	}
	return false, nil
}

// The headers of a cached reply beside the type, as docs/semantics.md has them.
var labels = []struct {
	name  string
	value []string
}{
	{"Etag", []string{`"12345"`}},
	{"Holdfast-Revision", []string{"123456"}},
	{"Holdfast-Epoch", []string{"cdf818194e3a8c32-00112233445566778899aabbccddeeff"}},
	{"Holdfast-Source", []string{"cache"}},
	{"Holdfast-Consistency", []string{"bounded"}},
	{"Holdfast-Age", []string{"0.412"}},
	{"Age", []string{"1"}},
	{"Cache-Status", []string{"holdfast; hit"}},
	{"X-Content-Type-Options", []string{"nosniff"}},
}

func label(h http.Header) {
	for _, l := range labels {
		h[l.name] = l.value
	}
}

// serveBare serves until it is killed.
func serveBare(addr, length string) error {
	length, labelling := strings.CutPrefix(length, labelled)
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > maxValue {
		return fmt.Errorf("%q is not a length from 0 to %d", length, maxValue)
	}
	body, size := bytes.Repeat([]byte{'v'}, n), []string{length}
	s := http.Server{
		Addr:              addr,
		ReadHeaderTimeout: 10 * time.Second, // as the product has
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h["Content-Type"] = []string{"application/octet-stream"}
			h["Content-Length"] = size
			if labelling {
				label(h)
			}
			_, _ = w.Write(body) // a client that has left is no fault of the handler
		}),
	}
	return s.ListenAndServe()
}
