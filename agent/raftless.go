package agent

import (
	"holdfast/api"
	"holdfast/config"
	"holdfast/kv"
	"holdfast/member"
)

// This file is for programs without raft, as those for processors of 32 bits are (see package nodehost): every node is a
// proxy there, and what asks for a member is refused before anything is made.

// Supports returns an error, with exit code 78, if this program was built without what cfg asks for.
func Supports(cfg config.Config) error { return supports(cfg.Mode, member.Built) }

func supports(mode config.Mode, canBeMember bool) error {
	if canBeMember || mode != config.ModeMember {
		return nil
	}
	return refusef("mode: this program was built without raft (as for all processors of 32 bits) and can only be a proxy: set --mode=proxy and --join, or run a member on a machine with 64 bits")
}

// withoutRaft makes auto mean proxy where nothing else can be, and refuses the dir of a member.
func withoutRaft(cfg *config.Config, d *dataDir) error {
	if err := Supports(*cfg); err != nil || member.Built {
		return err
	}
	cfg.Mode = config.ModeProxy
	there, err := d.look(memberName)
	if err != nil {
		return err
	}
	if there != absent {
		return refusef("data dir %s is that of a member, and this program was built without raft: start the one it was made with, or set --data-dir to another dir", d.path)
	}
	return nil
}

// refuseMember refuses a change that this program cannot make.
func refuseMember(r api.SwitchRequest) error {
	if member.Built || r.Node != api.SwitchSelf || r.Kind != api.SwitchPromote {
		return nil
	}
	return kv.Errorf(kv.Unsupported, "this program was built without raft (as for all processors of 32 bits): it can only be a proxy")
}
