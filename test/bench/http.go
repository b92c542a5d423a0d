package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// httpConn is an HTTP/1.1 connection kept open that does one request at a time, with as little work as the protocol
// allows: the load generator shares the cores with the server it measures. It understands what the servers measured
// here send, and refuses the rest.
type httpConn struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	body []byte
}

func dialHTTP(ctx context.Context, addr string) (*httpConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &httpConn{conn: conn, in: bufio.NewReaderSize(conn, 4<<10)}, nil
}

func (c *httpConn) Close() error { return c.conn.Close() }

// do sends c.out, which the caller has filled with a request, and returns the status and the body, good until the next
// call.
func (c *httpConn) do() (status int, body []byte, err error) {
	if _, err := c.conn.Write(c.out); err != nil {
		return 0, nil, err
	}
	line, err := c.line()
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, fmt.Errorf("not an HTTP/1.1 status line: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, fmt.Errorf("not an HTTP/1.1 status line: %q", line)
	}
	length, chunked, err := c.header()
	if err != nil {
		return 0, nil, err
	}
	c.body = c.body[:0]
	switch {
	case status == 204 || status == 304:
	case chunked:
		err = c.chunks()
	case length < 0:
		err = errors.New("an answer with neither length nor chunks")
	default:
		err = c.take(length)
	}
	return status, c.body, err
}

func (c *httpConn) header() (length int, chunked bool, err error) {
	length = -1
	for {
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return length, chunked, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return 0, false, fmt.Errorf("not a length: %q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close")):
			return 0, false, errors.New("the server closes the connection, which is to be kept")
		}
	}
}

func (c *httpConn) chunks() error {
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(string(line), 16, 31)
		if err != nil {
			return fmt.Errorf("not a chunk size: %q", line)
		}
		if err := c.take(int(n)); err != nil {
			return err
		}
		if end, err := c.line(); err != nil || len(end) > 0 {
			return errors.Join(err, fmt.Errorf("a chunk ends with %q", end))
		}
		if n == 0 {
			return nil
		}
	}
}

// take appends n bytes to the body.
func (c *httpConn) take(n int) error {
	if n > maxBody {
		return fmt.Errorf("a body of %d bytes", n)
	}
	at := len(c.body)
	c.body = append(c.body, make([]byte, n)...)
	_, err := io.ReadFull(c.in, c.body[at:])
	return err
}

// maxBody is more than any answer measured here.
const maxBody = 64 << 20

func (c *httpConn) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	return bytes.TrimSuffix(line, []byte("\r\n")), err
}

// restClient speaks Holdfast's own API.
type restClient struct{ *httpConn }

func dialREST(_ context.Context, addr string, _ int) (dialer, error) {
	return dialEach(func(ctx context.Context) (client, error) {
		c, err := dialHTTP(ctx, addr)
		return restClient{c}, err
	}), nil
}

func (c restClient) Put(key, value []byte) error {
	status, body, err := c.send(key, value)
	if err == nil && status != 200 && status != 201 {
		err = fmt.Errorf("PUT %s: %d: %s", key, status, body)
	}
	return err
}

// send puts a key, whatever the answer.
func (c restClient) send(key, value []byte) (status int, body []byte, err error) {
	c.out = append(c.out[:0], "PUT /v1/kv/"...)
	c.out = append(c.out, key...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: bench\r\nContent-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(len(value)), 10)
	c.out = append(c.out, "\r\n\r\n"...)
	c.out = append(c.out, value...)
	return c.do()
}

func (c restClient) Get(key []byte, linearizable bool) (int, error) {
	level := "local"
	if linearizable {
		level = "linearizable"
	}
	c.out = append(c.out[:0], "GET /v1/kv/"...)
	c.out = append(c.out, key...)
	c.out = append(c.out, "?consistency="...)
	c.out = append(c.out, level...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: bench\r\n\r\n"...)
	status, body, err := c.do()
	if err == nil && status != 200 {
		err = fmt.Errorf("GET %s: %d: %s", key, status, body)
	}
	return len(body), err
}

// gatewayClient speaks JSON to etcd's v3 gateway.
type gatewayClient struct {
	*httpConn
	json []byte
}

func dialGateway(_ context.Context, addr string, _ int) (dialer, error) {
	return dialEach(func(ctx context.Context) (client, error) {
		c, err := dialHTTP(ctx, addr)
		return &gatewayClient{httpConn: c}, err
	}), nil
}

func (c *gatewayClient) Put(key, value []byte) error {
	c.json = append(c.json[:0], `{"key":"`...)
	c.json = base64.StdEncoding.AppendEncode(c.json, key)
	c.json = append(c.json, `","value":"`...)
	c.json = base64.StdEncoding.AppendEncode(c.json, value)
	c.json = append(c.json, `"}`...)
	_, err := c.post("/v3/kv/put")
	return err
}

func (c *gatewayClient) Get(key []byte, linearizable bool) (int, error) {
	c.json = append(c.json[:0], `{"key":"`...)
	c.json = base64.StdEncoding.AppendEncode(c.json, key)
	c.json = append(c.json, `","serializable":`...)
	c.json = strconv.AppendBool(c.json, !linearizable)
	c.json = append(c.json, '}')
	body, err := c.post("/v3/kv/range")
	if err != nil {
		return 0, err
	}
	_, value, there := bytes.Cut(body, []byte(`"value":"`))
	value, _, whole := bytes.Cut(value, []byte(`"`))
	if !there || !whole {
		return 0, fmt.Errorf("range of %s: no value: %s", key, body)
	}
	return base64.RawStdEncoding.DecodedLen(len(bytes.TrimRight(value, "="))), nil
}

func (c *gatewayClient) post(path string) ([]byte, error) {
	c.out = append(c.out[:0], "POST "...)
	c.out = append(c.out, path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(len(c.json)), 10)
	c.out = append(c.out, "\r\n\r\n"...)
	c.out = append(c.out, c.json...)
	status, body, err := c.do()
	if err == nil && status != 200 {
		err = fmt.Errorf("POST %s: %d: %s", path, status, body)
	}
	return body, err
}
