package agent

import (
	"encoding/json"
	"fmt"
	"time"

	"holdfast/config"
)

// plan is what was decided for a data dir, and how to carry it out.
type plan struct {
	dir    *dataDir
	do     action
	record record // what is, or will be, recorded
	node   nodeID // set by make

	admission json.RawMessage // for joinMember
}

// admit decides what the node is. It makes nothing. now dates the record for people.
func admit(d *dataDir, cfg config.Config, now time.Time) (*plan, error) {
	s, err := d.observe(cfg)
	if err != nil {
		return nil, err
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
		p.record.Reason = "join"
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
	case joinMember:
		p.record.NodeID = p.node.String()
		return p.dir.joinMember(p.record, p.admission)
	case serveUnjoined, becomeProxy:
		p.record.NodeID = p.node.String()
		if err := p.dir.writeRecord(p.record); err != nil {
			return err
		}
		if err := p.dir.step("recorded"); err != nil {
			return err
		}
	}
	if p.record.Mode == config.ModeProxy { // a cache is nobody's loss: it is made where it is missing
		return p.dir.makeFolder(proxyName)
	}
	return nil
}

// complete is called once the member has been opened, before any client is answered.
func (p *plan) complete() error {
	if p.do == goOn {
		return nil
	}
	return p.dir.founded(p.record)
}
