package agent

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"holdfast/internal/atrest"
	"holdfast/internal/failpoint"
	"holdfast/transport"
)

// keyFiles are the files in identity/ that hold a key: what a seal is for.
var keyFiles = append(slices.Clone(transport.SecretFiles), serverFile)

// unlock takes the secret by which the keys of the dir are sealed, and seals those that are not. Keys that do not open with it, or
// are sealed while there is none, are a person's to mend (ExitConfig).
func (a *Agent) unlock() error {
	s, err := readSeal(a.cfg.SealFile)
	if err != nil {
		return err
	}
	changed, err := a.dir.reseal(s, s)
	if len(changed) > 0 {
		a.opts.Log.Info("keys sealed; what they were on the disk before may still be read from it until it is written over", "files", strings.Join(changed, ", "))
	}
	if err != nil {
		return err
	}
	a.dir.seal = s
	return nil
}

// readSeal reads a secret, none for no path.
func readSeal(path string) (*atrest.Seal, error) {
	if path == "" {
		return nil, nil
	}
	s, err := atrest.Read(path)
	if err != nil {
		return nil, refusef("seal-file: %w: hand the agent the secret of its keys, in the unit with LoadCredentialEncrypted=holdfast.seal (systemd/README.md)", err)
	}
	return s, nil
}

// reseal has the keys of the dir sealed as to says, nil being not at all, and returns the names of those that were not. Each is
// replaced in one step; those that are as they should be are left alone, so that what a crash cuts short the next call completes.
func (d *dataDir) reseal(from, to *atrest.Seal) (changed []string, err error) {
	if err := d.dropLeftovers(); err != nil {
		return nil, err
	}
	for _, name := range keyFiles {
		text, err := os.ReadFile(d.join(identityName, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return changed, storageError(err)
		}
		if _, err := to.Open(name, text); err == nil && atrest.IsSealed(text) == (to != nil) {
			continue
		}
		plain, err := from.Open(name, text)
		if err != nil {
			return changed, d.locked(name, err)
		}
		if err := d.sealFile(name, plain, from, to); err != nil {
			return changed, err
		}
		changed = append(changed, name)
		if err := d.step(failpoint.SealFile); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func (d *dataDir) sealFile(name string, plain []byte, from, to *atrest.Seal) error {
	if name == nodeFile { // it has labels
		id, err := transport.LoadIdentity(d.join(identityName), from)
		if err != nil {
			return refusef("data dir %s: %w", d.path, err)
		}
		if err := id.Save(d.join(identityName), to); err != nil {
			return storageError(err)
		}
		return nil
	}
	sealed, err := to.Close(name, plain, nil)
	if err != nil {
		return err
	}
	if err := writeFile(d.join(identityName, name), sealed); err != nil {
		return storageError(err)
	}
	return nil
}

// dropLeftovers removes what a crash has left of a key that was being written. Nobody writes any while the lock is taken anew.
func (d *dataDir) dropLeftovers() error {
	entries, err := os.ReadDir(d.join(identityName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storageError(err)
	}
	for _, e := range entries {
		if !slices.ContainsFunc(keyFiles, func(name string) bool {
			return e.Name() == name+".new" || strings.HasPrefix(e.Name(), "."+name+".")
		}) {
			continue
		}
		if err := removeIfThere(d.join(identityName, e.Name())); err != nil {
			return storageError(err)
		}
	}
	return nil
}

// locked says what to do about a key that does not open.
func (d *dataDir) locked(name string, err error) error {
	const lost = "if it is lost, so are this node's keys: remove the node (agent members remove, agent nodes revoke), move the data dir away and join again as a new one"
	if errors.Is(err, atrest.ErrNoSeal) {
		return refusef("data dir %s: %s/%s: %w: hand it over as before (LoadCredentialEncrypted=holdfast.seal in the unit, or seal-file); %s", d.path, identityName, name, err, lost)
	}
	return refusef("data dir %s: %s/%s: %w: hand over the secret that it was sealed with, or run agent reseal again if that was cut short; %s", d.path, identityName, name, err, lost)
}

// Reseal changes the secret that the keys in the data dir of a stopped agent are sealed with from that in one file to that in another.
// An empty path is no secret: keys that are not sealed, or are to be open again. It returns the names of the files that it has
// changed. What a crash cuts short is completed by calling it again. Errors have an exit code.
func Reseal(path, from, to string) (changed []string, err error) {
	if err := ownDir(path); err != nil {
		return nil, err
	}
	before, err := readSeal(from)
	if err != nil {
		return nil, err
	}
	after, err := readSeal(to)
	if err != nil {
		return nil, err
	}
	d, err := openDataDir(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if there, err := d.look(identityName); err != nil || there != filled {
		return nil, errors.Join(err, refusef("data dir %s has no %s: there are no keys in it", path, identityName))
	}
	return d.reseal(before, after)
}
