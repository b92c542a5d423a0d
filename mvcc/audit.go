package mvcc

import "holdfast/kv"

// AuditCall is a kv.Audit at its place in the history: At is the newest revision there and Compact the compact revision.
type AuditCall struct {
	kv.Audit
	At, CompactAt int64
}

// ask notes an Audit of the present leader.
func (x *exec) ask(op kv.Audit) {
	if op.Term != 0 && op.Term == x.control.term {
		x.audit = &op
	}
}

// tellAudit passes an Audit on once its command cannot fail any more.
func (s *Store) tellAudit(x *exec) {
	if x.audit != nil {
		s.opts.Audit(AuditCall{*x.audit, s.state.Revision, x.control.compact})
	}
}
