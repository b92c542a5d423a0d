package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

// bareArg makes this program the yardstick of cached reads: an HTTP server of the standard library with a handler that
// does nothing but answer.
const bareArg = "serve-bare"

// bare is that server as a process of its own, answering with a value of as many bytes as the keys have.
func bare(value int) (*system, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return &system{
		name: "net/http", bin: self, ready: askOK("/readyz"),
		args: func(_ string, port, _ int) []string { return []string{bareArg, loopback(port), strconv.Itoa(value)} },
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
		return true, serveFloor(args[1])
	}
	return false, nil
}

// serveBare serves until it is killed.
func serveBare(addr, length string) error {
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
			_, _ = w.Write(body) // a client that has left is no fault of the handler
		}),
	}
	return s.ListenAndServe()
}
