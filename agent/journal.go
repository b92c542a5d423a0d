package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/enroll"
)

// Journal asks a stopped agent, by its data dir, for a change that its next start carries out once the cluster agrees. It
// returns a sentence that says what was done. By force a node leaves at once, which needs nobody else. Errors have an exit
// code; a dir that is in use by an agent is a temporary one.
func Journal(dir string, r api.SwitchRequest, now time.Time) (string, error) {
	if err := refuseMember(r); err != nil {
		return "", &exitError{ExitConfig, err}
	}
	if r.Node != api.SwitchSelf {
		return "", refusef("no agent runs on %s, and another node can only be reached through one", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, modeFile)); errors.Is(err, fs.ErrNotExist) {
		return "", refusef("data dir %s has no %s: there is no node in it", dir, modeFile)
	}
	d, err := openDataDir(dir)
	if err != nil {
		return "", err
	}
	said, err := d.journal(r, now)
	return said, errors.Join(err, d.Close())
}

func (d *dataDir) journal(r api.SwitchRequest, now time.Time) (string, error) {
	s, err := d.observe(config.Config{Mode: config.ModeAuto})
	if err != nil {
		return "", err
	}
	if _, err := decide(s); err != nil {
		return "", err
	}
	rec := *s.record
	if r.Kind == api.SwitchLeave && r.Force {
		if there, err := d.look(queueName); err != nil || there == filled {
			return "", errors.Join(err, refusef("data dir %s has a queue, in which writes may wait that nobody would send: start the agent and let it drain, then run agent leave --force again", d.path))
		}
		into, err := d.moveAside(rec, now)
		return fmt.Sprintf("this node has left its cluster; what it had is in %s", d.join(into)), err
	}
	switch {
	case rec.Switch != nil && rec.Switch.Kind != r.Kind:
		return "", refusef("data dir %s is in the middle of another change (%s): start the agent, which goes on with it", d.path, rec.Switch.Kind)
	case rec.Switch != nil:
		return fmt.Sprintf("the next start of the agent goes on with it (%s)", r.Kind), nil
	case r.Kind == api.SwitchPromote && rec.Mode == config.ModeMember, r.Kind == api.SwitchDemote && rec.Mode == config.ModeProxy:
		return fmt.Sprintf("this node is a %s already", rec.Mode), nil
	}
	if r.Token != "" {
		if _, err := enroll.ParseToken(r.Token); err != nil {
			return "", refusef("the token: %w: make one with `agent token create` on a member", err)
		}
	}
	rec.Switch = &change{Kind: r.Kind, Token: r.Token}
	if err := d.writeRecord(rec); err != nil {
		return "", err
	}
	return fmt.Sprintf("no agent runs here; the next start carries it out (%s) once the cluster agrees", r.Kind), nil
}
