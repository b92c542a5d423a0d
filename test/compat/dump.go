package compat

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// dump writes a message as one line: every field that is set, in the order of the numbers. Of a header it writes the
// revision, and of the rest only which fields are set, because their values are the server's own.
func dump(m proto.Message) string {
	var b strings.Builder
	dumpMessage(&b, m.ProtoReflect())
	return b.String()
}

func dumpMessage(b *strings.Builder, m protoreflect.Message) {
	if !m.IsValid() {
		b.WriteString("nil")
		return
	}
	header := m.Descriptor().Name() == "ResponseHeader"
	fields := m.Descriptor().Fields()
	b.WriteByte('{')
	first := true
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		if !first {
			b.WriteByte(' ')
		}
		first = false
		b.WriteString(string(f.Name()))
		if header && f.Name() != "revision" {
			continue
		}
		b.WriteByte(':')
		v := m.Get(f)
		if !f.IsList() {
			dumpValue(b, f, v)
			continue
		}
		b.WriteByte('[')
		for j := range v.List().Len() {
			if j > 0 {
				b.WriteByte(' ')
			}
			dumpValue(b, f, v.List().Get(j))
		}
		b.WriteByte(']')
	}
	b.WriteByte('}')
}

// longValue is from where on a value is written as its length and its ends.
const longValue = 200

func dumpValue(b *strings.Builder, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch f.Kind() {
	case protoreflect.MessageKind:
		dumpMessage(b, v.Message())
	case protoreflect.BytesKind:
		if p := v.Bytes(); len(p) > longValue {
			fmt.Fprintf(b, "%q...%q (%d bytes)", p[:20], p[len(p)-20:], len(p))
		} else {
			fmt.Fprintf(b, "%q", p)
		}
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			b.WriteString(string(d.Name()))
			return
		}
		fmt.Fprint(b, v.Enum())
	default:
		fmt.Fprint(b, v.Interface())
	}
}
