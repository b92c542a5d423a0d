package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/config"
	"holdfast/internal/failpoint"
)

// plan is what was decided for a data dir, and how to carry it out.
type plan struct {
	dir    *dataDir
	do     action
	record record // what is, or will be, recorded
	node   nodeID // set by make

	admission json.RawMessage // for joinMember
	again     bool            // for askCluster: it was a member before, and has lost its data
}

// admit decides what the node is. It makes nothing; it completes a node's leaving that was cut short. now dates the record for people.
func admit(d *dataDir, cfg config.Config, now time.Time) (*plan, error) {
	s, err := d.observe(cfg)
	if err != nil {
		return nil, err
	}
	if s.damage == nil && s.record != nil && s.record.Switch != nil && s.record.Switch.Into != "" {
		into, err := d.moveAside(*s.record, now)
		if err != nil {
			return nil, err
		}
		return nil, refusef("data dir %s: this node has left its cluster, which an earlier run was cut short at and this one has completed; what it had is in %s: start again to begin anew", d.path, into)
	}
	decided, err := decide(s)
	if err != nil {
		return nil, err
	}
	if decided.do == askCluster && cfg.Mode == config.ModeProxy {
		s.answer = nobodyAnswers // a proxy serves first and asks meanwhile
		if decided, err = decide(s); err != nil {
			return nil, err
		}
	}
	p := &plan{dir: d, do: decided.do}
	switch decided.do {
	case bootstrapMember, serveUnjoined:
		p.record = record{Mode: decided.mode, Wanted: cfg.Mode, Reason: decided.reason, Since: now.UTC().Truncate(time.Second)}
		return p, nil
	case finishSwitch, goOn:
		p.record = *s.record
		return p, nil
	case askCluster:
		p.record.Reason, p.again = "join", s.lostMember()
		return p, nil
	}
	return nil, fmt.Errorf("data dir %s: nobody carries out action %d", d.path, decided.do)
}

// make brings the dir to where its node can be opened. A crash on the way is completed by the next start.
func (p *plan) make() (err error) {
	if p.node, err = p.dir.ensureNodeID(); err != nil {
		return err
	}
	switch p.do {
	case bootstrapMember:
		p.record.NodeID = p.node.String()
		return p.dir.bootstrap(p.record)
	case finishSwitch:
		return p.dir.finishSwitch(p.record)
	case goOn: // what a recovery that was cut short had staged
		if there, err := p.dir.look(replacedName); err != nil || there != absent {
			return errors.Join(err, p.dir.removeAll(replacedName))
		}
	case joinMember:
		p.record.NodeID = p.node.String()
		return p.dir.joinMember(p.record, p.admission)
	case serveUnjoined, becomeProxy:
		p.record.NodeID = p.node.String()
		if err := p.dir.writeRecord(p.record); err != nil {
			return err
		}
		if err := p.dir.step(failpoint.ProxyRecorded); err != nil {
			return err
		}
	}
	if p.record.Mode == config.ModeProxy { // a cache is nobody's loss: it is made where it is missing
		if err := p.dir.makeFolder(proxyName); err != nil {
			return err
		}
		return p.dir.step(failpoint.ProxyFolder)
	}
	return nil
}

// complete is called once the member has been opened, before any client is answered.
func (p *plan) complete() error {
	if p.do == goOn {
		return nil
	}
	if err := p.dir.step(failpoint.MemberOpened); err != nil {
		return err
	}
	return p.dir.founded(p.record)
}
