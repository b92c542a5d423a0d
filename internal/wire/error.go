package wire

import (
	"time"

	"holdfast/kv"
)

// AppendError appends the encoding of e, without its cause, to dst.
func AppendError(dst []byte, e *kv.Error) []byte { return appendError(appendStart(dst, kindError), e) }

// DecodeError is the inverse of AppendError. A code that this version does not know is kept: a refusal stays one.
func DecodeError(b []byte) (*kv.Error, error) { return decode(b, kindError, errorBody) }

func appendError(dst []byte, e *kv.Error) []byte {
	dst = append(dst, byte(e.Code))
	dst = appendBytes(dst, e.Detail)
	return appendInt(appendInt(dst, e.Revision), e.RetryAfter)
}

func errorBody(r *reader) *kv.Error {
	return &kv.Error{
		Code:       kv.Code(r.byte("code")),
		Detail:     string(r.bytes("detail")),
		Revision:   r.int("revision"),
		RetryAfter: time.Duration(r.int("retry time")),
	}
}
