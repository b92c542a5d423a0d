package member

import (
	"context"
	"slices"
	"time"
)

// registerSelf keeps this member's own entry in the roster true: its name, its addresses, and once, that it has caught
// up. It begins when the member is ready.
func (m *Member) registerSelf(ctx context.Context) error {
	select {
	case <-m.ready:
	case <-ctx.Done():
		return nil
	}
	for {
		r, changed := m.roster.get()
		wait := time.Duration(0)
		if s := r.Seat(m.id.Replica); s != nil && r.version != 0 && !m.entryTrue(*s) {
			if _, err := m.changeRoster(ctx, m.correctEntry); err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn("this member's entry in the list of members was not updated; trying again", "err", err)
				wait = registerRetry
			}
		}
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// registerRetry is how long a member waits before it tries again to correct its entry in the roster.
const registerRetry = time.Second

func (m *Member) entryTrue(s Seat) bool {
	return s.CaughtUp && s.Name == m.cfg.Name && slices.Equal(s.Addresses, m.cfg.Addresses) && slices.Equal(s.ClientURLs, m.cfg.ClientURLs)
}

func (m *Member) correctEntry(r *Roster) (bool, error) {
	s := r.Seat(m.id.Replica)
	if s == nil || m.entryTrue(*s) {
		return false, nil
	}
	s.CaughtUp, s.Name, s.Addresses, s.ClientURLs = true, m.cfg.Name, m.cfg.Addresses, m.cfg.ClientURLs
	return true, nil
}
