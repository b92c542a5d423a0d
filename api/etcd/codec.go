package etcd

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// codec is gRPC's own for protocol buffers, and counts bytes. What is encoded it leaves as it is.
type codec struct{ metrics *metrics }

var protoCodec = encoding.GetCodecV2(proto.Name)

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*encoded); ok {
		c.metrics.sent.Add(int64(m.parts.Len()))
		return m.parts, nil
	}
	data, err := protoCodec.Marshal(v)
	c.metrics.sent.Add(int64(data.Len()))
	return data, err
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	c.metrics.received.Add(int64(data.Len()))
	return protoCodec.Unmarshal(data, v)
}

// Name implements encoding.CodecV2.
func (codec) Name() string { return proto.Name }
