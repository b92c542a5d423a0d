package transport

import (
	"reflect"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A member that has not seen that a node is where its packets say answers three bytes for each that came (RFC 9000, section 8.1),
// and with many handshakes under way it asks for a proof before it looks at anything else, early data included: a round trip each.
// The token that it gives at the end of each handshake is that proof for the next one, from the same address and for a day. Those of
// uplinks outlive a restart, beside the session: it is early data that gains most by them.

// addressToken is one as the file of sessions has it.
type addressToken struct {
	Data []byte        `json:"data"`
	RTT  time.Duration `json:"rtt"` // smoothed, when the connection was new
}

// tokenParts finds what quic-go's token is made of. It is in no interface: of a version that has it elsewhere tokens stay in memory,
// and TestTokensOfAddressesCanBeWrittenDown fails.
func tokenParts(t *quic.ClientToken) (data, rtt reflect.Value, ok bool) {
	v := reflect.ValueOf(t).Elem()
	data, rtt = v.FieldByName("data"), v.FieldByName("rtt")
	ok = data.IsValid() && data.Type() == reflect.TypeFor[[]byte]() && rtt.IsValid() && rtt.Type() == reflect.TypeFor[time.Duration]()
	return data, rtt, ok
}

// writeToken is what is kept of a token.
func writeToken(t *quic.ClientToken) (kept addressToken, ok bool) {
	data, rtt, ok := tokenParts(t)
	if !ok {
		return kept, false
	}
	return addressToken{Data: data.Bytes(), RTT: time.Duration(rtt.Int())}, true
}

// token is the one that writeToken has kept; nil: it cannot be made.
func (kept addressToken) token() *quic.ClientToken {
	t := new(quic.ClientToken)
	data, rtt, ok := tokenParts(t)
	if !ok || len(kept.Data) == 0 {
		return nil
	}
	set := func(field reflect.Value, to any) {
		reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Set(reflect.ValueOf(to))
	}
	set(data, kept.Data)
	set(rtt, kept.RTT)
	return t
}

// keyedTokens files address validation tokens by address, and tells when the first one arrives. A server sends one with
// the end of the handshake, after it has accepted the client's certificate, and repeats it until it is acknowledged: it
// is the confirmation that quic-go does not offer otherwise.
type keyedTokens struct {
	quic.TokenStore
	key     string
	kept    *sessions // nil: they do not outlive this process
	session string    // in kept

	once sync.Once
	let  chan struct{} // closed by the first token
}

// Pop is of quic.TokenStore.
func (s *keyedTokens) Pop(string) *quic.ClientToken {
	if t := s.TokenStore.Pop(s.key); t != nil || s.kept == nil {
		return t
	}
	return s.kept.takeToken(s.session).token()
}

// Put is of quic.TokenStore.
func (s *keyedTokens) Put(_ string, t *quic.ClientToken) {
	s.TokenStore.Put(s.key, t)
	if s.kept != nil {
		if kept, ok := writeToken(t); ok {
			s.kept.putToken(s.session, kept)
		}
	}
	s.once.Do(func() { close(s.let) })
}
