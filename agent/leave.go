package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/failpoint"
	"holdfast/kv"
)

// leftName is where everything goes of a node that has left its cluster: left/<time>/.
const leftName = "left"

// leave takes this node out of its cluster, after which the agent stops. A member is demoted first, so that the cluster knows;
// by force nobody is asked. Writes that wait in the queue are a refusal: nobody would send them.
func (a *Agent) leave(ctx context.Context, now *running, e *errand) (*running, error) {
	e.say("looking for writes that wait in the queue")
	if v := a.queue.Load(); v != nil {
		if n := v.Status().Depth; n > 0 {
			return now, &undone{kv.Errorf(kv.PreconditionFailed, "%d writes wait in the queue of this node and would be lost: let them drain, or discard them (agent queue discard)", n)}
		}
	}
	if !e.force && now.mode == config.ModeMember {
		var err error
		if now, err = a.demote(ctx, now, e); err != nil {
			return now, err
		}
	}
	if !e.force {
		a.depart(ctx, now, e)
	}
	a.farewell.Store(true) // the agent stops once who asked has heard that it is done
	return now, nil
}

// goodbyeMax is how long a node that has left waits for who asked to hear of it: he asks anew every two seconds at most.
const goodbyeMax = 2 * time.Second

// takeLeave has the agent stop once somebody has heard that e is done.
func (a *Agent) takeLeave(ctx context.Context, e *errand) {
	timer := time.NewTimer(goodbyeMax)
	defer timer.Stop()
	select {
	case <-e.heard:
	case <-timer.C:
	case <-ctx.Done():
	}
	a.stop()
}

// departMax is how long the cluster is asked to forget a node that leaves.
const departMax = 5 * time.Second

// depart has the cluster forget this node. That it cannot be asked is no reason to stay.
func (a *Agent) depart(ctx context.Context, now *running, e *errand) {
	id := a.net.identity.Load()
	if now.proxy == nil || !id.Joined() {
		return
	}
	e.say("being taken off the list of nodes")
	// ctx has ended with the member that was on stage when all began.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), departMax)
	defer cancel()
	for {
		err := enroll.Depart(ctx, a.net.ep, now.proxy.up.Endpoints(), id)
		if err == nil {
			return
		}
		if a.again(ctx, e, err) != nil {
			a.opts.Log.Warn("the cluster still lists this node: agent nodes revoke on a member takes it off", "node", id.Node(), "err", err)
			return
		}
	}
}

// goAside is the last step of a node that has left. Everything has ended.
func (a *Agent) goAside() error {
	into, err := a.dir.moveAside(a.planned().record, a.opts.Now())
	if err != nil {
		return err
	}
	a.opts.Log.Info("this node has left its cluster; a start from here on begins anew, and what it had is kept", "in", a.dir.join(into))
	return nil
}

// moveAside puts everything in the dir but the lock into left/<time>/, which it returns. It begins with a record in
// mode.json and ends with that file, so that the next start completes what is cut short.
func (d *dataDir) moveAside(rec record, now time.Time) (string, error) {
	if rec.Switch == nil || rec.Switch.Into == "" {
		rec.Switch = &change{Kind: leaving, Into: filepath.Join(leftName, now.UTC().Format("20060102T150405Z"))}
		if err := d.writeRecord(rec); err != nil {
			return "", err
		}
		if err := d.step(failpoint.LeaveJournalled); err != nil {
			return "", err
		}
	}
	into := rec.Switch.Into
	if err := os.MkdirAll(d.join(into), 0o700); err != nil {
		return "", storageError(fmt.Errorf("make %s: %w", into, err))
	}
	for i, name := range []string{memberName, stagedName, proxyName, queueName, retiredName, identityName, modeFile} {
		err := os.Rename(d.join(name), d.join(into, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", storageError(fmt.Errorf("move %s aside: %w", name, err))
		}
		if name == identityName { // before the record goes, the rest is where it belongs
			if err := d.syncMoved(into); err != nil {
				return "", err
			}
		}
		if i == 0 {
			if err := d.step(failpoint.LeaveMoving); err != nil {
				return "", err
			}
		}
	}
	if err := d.syncMoved(into); err != nil {
		return "", err
	}
	return into, d.step(failpoint.LeaveMoved)
}

func (d *dataDir) syncMoved(into string) error {
	for _, dir := range []string{d.join(into), d.join(leftName), d.path} {
		if err := syncDir(dir); err != nil {
			return storageError(err)
		}
	}
	return nil
}
