package mvcc

import "bytes"

// source walks versions in the order of the key index: keys ascending, the versions of a key from the newest.
type source interface {
	// seek goes forward to the first version that does not come before (key, rev).
	seek(key []byte, rev revision)
	// at returns the present version, nil at the end. It is valid until the source moves.
	at() *version
}

// merge is several sources as one. A version that is in more than one is seen once, from the first that has it.
type merge struct {
	src []source
	min int // index of the source at the least version, -1 at the end
}

func (m *merge) seek(key []byte, rev revision) {
	for _, s := range m.src {
		s.seek(key, rev)
	}
	m.pick()
}

func (m *merge) at() *version {
	if m.min < 0 {
		return nil
	}
	return m.src[m.min].at()
}

func (m *merge) pick() {
	m.min = -1
	var least *version
	for i, s := range m.src {
		v := s.at()
		if v == nil {
			continue
		}
		if least != nil {
			if c := bytes.Compare(v.key, least.key); c > 0 || c == 0 && !v.rev.after(least.rev) {
				continue
			}
		}
		m.min, least = i, v
	}
}

// stage holds what a command has changed so far, sorted like an overlay; all at one main revision, and a key once.
type stage struct {
	recs []*record
}

func (s *stage) search(key []byte) int {
	lo, hi := 0, len(s.recs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(s.recs[mid].Key, key) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (s *stage) get(key []byte) *record {
	if i := s.search(key); i < len(s.recs) && bytes.Equal(s.recs[i].Key, key) {
		return s.recs[i]
	}
	return nil
}

// stageSource walks a stage; see source.
type stageSource struct {
	s *stage
	i int
	v version
}

func (s *stageSource) seek(key []byte, rev revision) {
	s.i = s.s.search(key)
	if s.i < len(s.s.recs) && before(s.s.recs[s.i], key, rev) {
		s.i++
	}
	s.load()
}

func (s *stageSource) load() {
	if s.i < len(s.s.recs) {
		s.v.set(s.s.recs[s.i])
	}
}

func (s *stageSource) at() *version {
	if s.i >= len(s.s.recs) {
		return nil
	}
	return &s.v
}
