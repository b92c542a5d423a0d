package mvcc

import (
	"errors"

	"holdfast/kv"
)

// readAttempts bounds how often a query begins anew because the history was compacted past it, or replaced, while it
// was reading. Twice is unheard of.
const readAttempts = 8

// Read answers a query from this replica at its newest revision. All ops see the same revision. The age that the query
// allows is the caller's business. Errors are *kv.Error, those for a damaged file included.
func (s *Store) Read(q kv.Query) (kv.Page, error) {
	if err := CheckQuery(q); err != nil {
		return kv.Page{}, err
	}
	for range readAttempts {
		if s.isClosed() {
			return kv.Page{}, errClosed()
		}
		page, err := s.readOnce(q)
		if !errors.Is(err, errPassed) {
			return page, asError(err)
		}
	}
	return kv.Page{}, kv.Errorf(kv.Busy, "the history was compacted faster than it could be read: ask for less at a time")
}

func (s *Store) readOnce(q kv.Query) (page kv.Page, err error) {
	r, h := s.now()
	page.Header = h
	defer r.close()
	x := &exec{r: r, base: page.Revision, policy: s.policy.Load()}
	err = guard(func() error {
		path, err := x.plan(q.Ops, nil)
		if err != nil {
			return err
		}
		page.Ops, _, err = x.ops(q.Ops, path)
		return err
	})
	if err != nil {
		return kv.Page{}, err
	}
	return page, nil
}

// asError gives a fault its place in the table of codes.
func asError(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return e
	}
	return kv.Errorf(kv.Internal, "read the store: %w", err)
}
