package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// journalArg makes this program the floor of queued writes: an HTTP server of the standard library whose handler writes
// the body to a file and answers 202 once that is durable. Those that come while a commit is under way share the next.
const journalArg = "serve-journal"

// journalName is the file, in the server's directory.
const journalName = "journal"

// journalBytes is how much of the file is there from the start, written and durable: to overwrite it costs a sync no more than
// the data. At its end the journal begins anew.
const journalBytes = 32 << 20

// journalFloor is that server as a process of its own.
func journalFloor() (*system, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return &system{
		name: "net/http and a journal", bin: self, ready: askOK("/readyz"),
		args: func(dir string, port, _ int) []string { return []string{journalArg, loopback(port), dir} },
	}, nil
}

// journal is a file that is written by whoever comes first, for all that wait.
type journal struct {
	f  *os.File
	at int64

	mu      sync.Mutex
	filling *group
	busy    bool
}

// group is what shares a commit.
type group struct {
	body []byte
	done chan struct{} // closed when it is durable; then err is set
	turn chan struct{} // closed when one of it may write
	err  error
}

func newGroup() *group { return &group{done: make(chan struct{}), turn: make(chan struct{})} }

// openJournal makes the file.
func openJournal(dir string) (*journal, error) {
	f, err := os.OpenFile(dir+"/"+journalName, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	for n := 0; n < journalBytes && err == nil; n += 4096 {
		_, err = f.Write(make([]byte, 4096))
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &journal{f: f, filling: newGroup()}, nil
}

// append returns once b is durable.
func (j *journal) append(b []byte) error {
	j.mu.Lock()
	g := j.filling
	g.body = append(g.body, b...)
	if len(g.body) == len(b) && !j.busy { // the first, and nobody is there whom to wait for
		close(g.turn)
		j.busy = true
	}
	j.mu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-g.turn:
	}
	j.mu.Lock()
	if j.filling != g { // somebody of it writes
		j.mu.Unlock()
		<-g.done
		return g.err
	}
	j.filling = newGroup()
	j.mu.Unlock()
	g.err = j.write(g.body)
	j.mu.Lock()
	close(g.done)
	if j.busy = len(j.filling.body) > 0; j.busy {
		close(j.filling.turn)
	}
	j.mu.Unlock()
	return g.err
}

func (j *journal) write(b []byte) error {
	if j.at+int64(len(b)) > journalBytes {
		j.at = 0
	}
	n, err := j.f.WriteAt(b, j.at)
	j.at += int64(n)
	if err != nil {
		return err
	}
	return unix.Fdatasync(int(j.f.Fd()))
}

// serveJournal serves until it is killed.
func serveJournal(addr, dir string) error {
	j, err := openJournal(dir)
	if err != nil {
		return err
	}
	answer := bytes.Repeat([]byte{'v'}, 40) // as long as that of the product
	s := http.Server{
		Addr:              addr,
		ReadHeaderTimeout: 10 * time.Second, // as the product has
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				return
			}
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxValue))
			if err == nil {
				err = j.append(append(body, r.URL.Path...))
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write(answer) // a client that has left is no fault of the handler
		}),
	}
	return s.ListenAndServe()
}
