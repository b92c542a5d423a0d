package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"holdfast/internal/failpoint"
	"holdfast/queue"
)

// PrepareImage takes the identity out of the data dir of a stopped agent, so that an image of the machine can be copied:
// each copy draws an identity of its own. It returns what it removed, nothing if there was no identity. A member's data,
// and queued writes that were not settled, are a reason to refuse (ExitConfig); the cache of a proxy goes. What a crash
// leaves half done the next call completes.
func PrepareImage(path string) (removed []string, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	d, err := openDataDir(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.refuseData(); err != nil {
		return nil, err
	}
	// The record first: without it nothing claims that there is an identity. The identity last: with it gone, all is done.
	for _, name := range []string{modeFile, stagedName, proxyName, queueName, identityName} {
		if _, err := os.Lstat(d.join(name)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(d.join(name)); err != nil {
			return removed, storageError(fmt.Errorf("remove %s: %w", d.join(name), err))
		}
		if err := syncDir(d.path); err != nil {
			return removed, storageError(err)
		}
		removed = append(removed, name)
		if err := d.step(failpoint.ImageRemoved); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// refuseData says what in the dir would be lost, or would be in every copy.
func (d *dataDir) refuseData() error {
	for _, name := range []string{memberName, retiredName, stagedName} {
		there, err := d.look(name)
		if err != nil {
			return err
		}
		if there == filled {
			return refusef("%s has the data of a member: an image with it would be several members under one name. Take the image of a machine whose agent has not run, or move %s away", d.join(name), d.path)
		}
	}
	there, err := d.look(queueName)
	if err != nil || there != filled {
		return err
	}
	q, err := queue.Open(nil, queue.Options{Dir: d.join(queueName)})
	if err != nil {
		return openError(err)
	}
	s := q.Status()
	if err := q.Close(); err != nil {
		return storageError(err)
	}
	if s.Depth > 0 || s.Kept > 0 {
		return refusef("%s has %d writes that were not sent and %d that ended without success: start the agent and let it send them, or discard them (agent queue ls, agent queue discard)", d.join(queueName), s.Depth, s.Kept)
	}
	return nil
}
