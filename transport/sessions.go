package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/atrest"
)

const (
	sessionsFile = "sessions.json"
	// maxSessions bounds the peers that can be dialed with early data; the one heard of longest ago goes. One is about 4 kB.
	maxSessions = 8
	// sessionLife is how long a session is of use: the other end keeps today's key and that of the day before.
	sessionLife = 24 * time.Hour
	// sessionSave is how much older than what is in memory the file may be after a power cut.
	sessionSave = time.Hour
)

// sessions keeps what uplinks are opened with early data by: the TLS session of each peer, whom it is with, and the proof of this node's
// address that the peer has given. They are secrets, and outlive a restart in a file that only its owner may read.
type sessions struct {
	dir  string // empty: in memory only
	seal *atrest.Seal

	mu    sync.Mutex
	byKey map[string]session
	saved time.Time
}

// session is one as the file has it.
type session struct {
	Ticket []byte    `json:"ticket"`
	State  []byte    `json:"state"`
	Chain  [][]byte  `json:"chain"` // certificates that the peer has shown
	At     time.Time `json:"at"`

	Token addressToken `json:"token,omitzero"`
}

// openSessions reads what was kept. A file that cannot be read is of no use and no harm: what it saves is a round trip.
func openSessions(dir string, seal *atrest.Seal) (*sessions, error) {
	s := &sessions{dir: dir, seal: seal, byKey: make(map[string]session), saved: time.Now()}
	if dir == "" {
		return s, nil
	}
	data, err := readSecret(dir, sessionsFile, seal)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s.byKey)
	}
	if err != nil {
		s.byKey = make(map[string]session)
		return s, fmt.Errorf("TLS sessions of before are not used: %w", err)
	}
	return s, nil
}

// get returns the chain that a peer showed when its session began; nil if there is no session to use.
func (s *sessions) get(key string) (chain []*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.byKey[key]
	if age := time.Since(kept.At); !ok || age < 0 || age > sessionLife {
		return nil
	}
	for _, der := range kept.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil
		}
		chain = append(chain, c)
	}
	return chain
}

// drop forgets a session that the peer did not take.
func (s *sessions) drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byKey, key)
}

// takeToken returns the token that came along with a session, if it is of use, and forgets it.
func (s *sessions) takeToken(key string) (t addressToken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.byKey[key]
	if age := time.Since(kept.At); ok && age >= 0 && age <= sessionLife {
		t = kept.Token
	}
	if ok {
		kept.Token = addressToken{}
		s.byKey[key] = kept
	}
	return t
}

// putToken keeps a token along with the session, which may come before or after it.
func (s *sessions) putToken(key string, t addressToken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.byKey[key]
	if !ok {
		kept.At = time.Now()
	}
	kept.Token = t
	s.byKey[key] = kept
	s.bound(key)
}

func (s *sessions) put(key string, kept session) error {
	s.mu.Lock()
	kept.Token = s.byKey[key].Token
	s.byKey[key] = kept
	s.bound(key)
	due := time.Since(s.saved) > sessionSave
	s.mu.Unlock()
	if due {
		return s.save()
	}
	return nil
}

// bound lets go of the oldest sessions beyond maxSessions, that of a key excepted. s.mu is held.
func (s *sessions) bound(key string) {
	for len(s.byKey) > maxSessions {
		oldest := key
		for k, v := range s.byKey {
			if v.At.Before(s.byKey[oldest].At) {
				oldest = k
			}
		}
		delete(s.byKey, oldest)
	}
}

// save writes the file.
func (s *sessions) save() error {
	if s.dir == "" {
		return nil
	}
	s.mu.Lock()
	data, err := json.Marshal(s.byKey)
	s.saved = time.Now()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return writeSecret(s.dir, sessionsFile, data, s.seal, nil)
}

// sessionCache is the part of sessions for one dial. crypto/tls would file sessions by host.
type sessionCache struct {
	*sessions
	key  string
	used bool // whether a session may be used; a new one is kept in any case
	warn func(error)

	mu    sync.Mutex
	chain [][]byte // of the peer, once the handshake has shown it
	last  *tls.ClientSessionState
}

// Get is of tls.ClientSessionCache.
func (c *sessionCache) Get(string) (*tls.ClientSessionState, bool) {
	if !c.used {
		return nil, false
	}
	c.sessions.mu.Lock()
	kept := c.byKey[c.key]
	c.sessions.mu.Unlock()
	state, err := tls.ParseSessionState(kept.State)
	if err != nil {
		return nil, false
	}
	cs, err := tls.NewResumptionState(kept.Ticket, state)
	return cs, err == nil
}

// Put is of tls.ClientSessionCache. A peer sends its session after the handshake, perhaps before shown.
func (c *sessionCache) Put(_ string, cs *tls.ClientSessionState) {
	c.mu.Lock()
	c.last = cs
	chain := c.chain
	c.mu.Unlock()
	if chain != nil {
		c.keep(cs, chain)
	}
}

// shown tells whom the session is with.
func (c *sessionCache) shown(certs []*x509.Certificate) {
	c.mu.Lock()
	c.chain = raw(certs)
	chain, cs := c.chain, c.last
	c.mu.Unlock()
	if cs != nil {
		c.keep(cs, chain)
	}
}

func (c *sessionCache) keep(cs *tls.ClientSessionState, chain [][]byte) {
	if cs == nil { // what crypto/tls says of a session that was of no use
		c.drop(c.key)
		return
	}
	ticket, state, err := cs.ResumptionState()
	if err != nil || ticket == nil {
		return
	}
	b, err := state.Bytes()
	if err == nil {
		err = c.put(c.key, session{Ticket: ticket, State: b, Chain: chain, At: time.Now()})
	}
	if err != nil {
		c.warn(err)
	}
}

// sessionKey names a session: another certificate of this node, or other CAs, make another one.
func (id *Identity) sessionKey(p Protocol, t Target, addr string) string {
	trust := sha256.New()
	for _, r := range raw(id.roots) {
		trust.Write(r)
	}
	return strings.Join([]string{string(p), t.Node, strconv.FormatBool(t.AllowProxy), addr, id.info.Serial, fmt.Sprintf("%x", trust.Sum(nil)[:8])}, " ")
}

// ticketDay is the day by which ticketKeys change.
func ticketDay(now time.Time) int64 { return now.Unix() / int64(24*time.Hour/time.Second) }

// ticketKeys seal the sessions that peers keep: today's key, and yesterday's for those that it has sealed. They are drawn
// from the node's secret, so they survive a restart, and are not shared between members: a resumed session shows the
// certificate of the first handshake, and a node would not know which member it speaks to.
func (id *Identity) ticketKeys(day int64) [][32]byte {
	secret := id.derive("session tickets")
	keys := make([][32]byte, 2)
	for i := range keys {
		mac := hmac.New(sha256.New, secret[:])
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(day-int64(i))))
		keys[i] = [32]byte(mac.Sum(nil))
	}
	return keys
}
