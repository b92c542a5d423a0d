package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// respClient speaks as much of Redis's protocol as SET and GET take.
type respClient struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

func dialRedis(_ context.Context, addr string, _ int) (dialer, error) {
	return dialEach(func(ctx context.Context) (client, error) { return dialRESP(ctx, addr) }), nil
}

func dialRESP(ctx context.Context, addr string) (*respClient, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &respClient{conn: conn, in: bufio.NewReaderSize(conn, 4<<10)}, nil
}

func (c *respClient) Close() error { return c.conn.Close() }

func (c *respClient) ping() error { return c.simple("PONG", []byte("PING")) }

func (c *respClient) Put(key, value []byte) error { return c.simple("OK", []byte("SET"), key, value) }

// Get is the same at both levels: there is one thread that answers everything.
func (c *respClient) Get(key []byte, _ bool) (int, error) {
	line, err := c.ask([]byte("GET"), key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(bytes.TrimPrefix(line, []byte("$"))))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("GET %s: %q", key, line)
	}
	_, err = c.in.Discard(n + len("\r\n"))
	return n, err
}

// simple asks for something that is answered by one word.
func (c *respClient) simple(want string, words ...[]byte) error {
	line, err := c.ask(words...)
	if err == nil && string(line) != "+"+want {
		err = fmt.Errorf("%s: %q", words[0], line)
	}
	return err
}

func (c *respClient) ask(words ...[]byte) ([]byte, error) {
	c.out = append(c.out[:0], '*')
	c.out = strconv.AppendInt(c.out, int64(len(words)), 10)
	for _, w := range words {
		c.out = append(c.out, "\r\n$"...)
		c.out = strconv.AppendInt(c.out, int64(len(w)), 10)
		c.out = append(c.out, "\r\n"...)
		c.out = append(c.out, w...)
	}
	c.out = append(c.out, "\r\n"...)
	if _, err := c.conn.Write(c.out); err != nil {
		return nil, err
	}
	line, err := c.in.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return bytes.TrimSuffix(line, []byte("\r\n")), err
}
