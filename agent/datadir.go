package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"holdfast/internal/atrest"
	"holdfast/internal/failpoint"
	"holdfast/kv"
	"holdfast/transport"
)

// The names in a data dir. The agent makes mode.json and identity; member, queue and proxy belong to the packages of
// those names once the agent has made the folder.
const (
	lockFile     = "agent.lock"
	modeFile     = "mode.json"
	identityName = "identity"
	nodeFile     = "node.pem" // in identity; package transport writes it
	memberName   = "member"
	proxyName    = "proxy"
	stagedName   = "member.new" // a member that is being made
)

// dataDir is the data dir of one node, held under its lock: nobody else changes it until Close.
type dataDir struct {
	path string
	lock *os.File
	seal *atrest.Seal                // of the keys in it; nil: they are open, or nobody needs them
	step func(failpoint.Point) error // called between durable steps; tests cut them short here
}

// openDataDir makes the folder if it is not there, readable by nobody else, and takes its lock. A lock held by another
// agent is a temporary error that names its process.
func openDataDir(path string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data dir %s: %w", path, err)
	}
	if err := makeDataDir(path); err != nil {
		return nil, unusable(path, err)
	}
	// The lock file stays when the agent ends: removing it would let two agents lock two files of one name.
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(path, err)
	}
	if err := takeLock(lock, path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &dataDir{path: path, lock: lock, step: pass}, nil
}

// unusable is why the folder cannot be had, and what to do about it.
func unusable(path string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		remedy = fmt.Sprintf(": give it to the user that the agent runs as (uid %d), or set --data-dir to another", os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		remedy = ": mount it writable, or set --data-dir to a dir that is"
	case errors.Is(err, syscall.ENOTDIR):
		remedy = ": a folder is wanted there: set --data-dir"
	}
	return storageError(fmt.Errorf("data dir %s: %w%s", path, err, remedy))
}

// pass is the step of a dir that nobody cuts short, but for a program built to be.
func pass(p failpoint.Point) error {
	failpoint.Hit(p)
	return nil
}

// makeDataDir makes the folder and makes its name durable.
func makeDataDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func takeLock(lock *os.File, dir string) error {
	err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return temporaryf("data dir %s is in use by %s: stop that agent, or set --data-dir to a dir of this one's own", dir, holder(lock))
	}
	if err != nil {
		return storageError(fmt.Errorf("lock %s: %w", lock.Name(), err))
	}
	if err := lock.Truncate(0); err != nil {
		return storageError(fmt.Errorf("lock %s: %w", lock.Name(), err))
	}
	if _, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return storageError(fmt.Errorf("lock %s: %w", lock.Name(), err))
	}
	return nil
}

// holder says who has the lock, as far as the file tells.
func holder(lock *os.File) string {
	text, err := io.ReadAll(io.LimitReader(lock, 32))
	pid, bad := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || bad != nil {
		return "another process"
	}
	return "the process with pid " + strconv.Itoa(pid)
}

// Close gives the lock back.
func (d *dataDir) Close() error { return d.lock.Close() }

// join is the path of a name in the dir.
func (d *dataDir) join(names ...string) string {
	return filepath.Join(append([]string{d.path}, names...)...)
}

// presence tells what stands at a name where a folder is expected.
type presence int

const (
	absent presence = iota
	empty           // a folder without anything in it
	filled
)

func (d *dataDir) look(name string) (presence, error) {
	f, err := os.Open(d.join(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return absent, nil
	case err != nil:
		return absent, storageError(err)
	}
	defer f.Close()
	switch _, err := f.ReadDir(1); {
	case errors.Is(err, io.EOF):
		return empty, nil
	case err != nil:
		return absent, storageError(fmt.Errorf("data dir %s: %w", d.path, err))
	}
	return filled, nil
}

// nodeID names a node for as long as its data dir lives, whatever mode it is in: 128 random bits, written as 32
// hexadecimal digits.
type nodeID [16]byte

func (id nodeID) String() string { return hex.EncodeToString(id[:]) }

// uuid is the form in which the raft library wants it.
func (id nodeID) uuid() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// readIdentity returns who the node is, with fs.ErrNotExist if it is nobody yet.
func (d *dataDir) readIdentity() (*transport.Identity, error) {
	id, err := transport.LoadIdentity(d.join(identityName), d.seal)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, atrest.ErrNoSeal) {
		return id, err
	}
	return nil, fmt.Errorf("%w: %w", errDamaged, err)
}

// readNodeID returns the id of the node, with fs.ErrNotExist if it has none yet.
func (d *dataDir) readNodeID() (nodeID, error) {
	id, err := d.readIdentity()
	if errors.Is(err, atrest.ErrNoSeal) { // a command on a stopped agent: it needs no key
		s, err := transport.LookAtSealed(d.join(identityName))
		if err != nil || s == nil {
			return nodeID{}, fmt.Errorf("%w: %w", errDamaged, err)
		}
		return kv.ParseNodeID(s.Node)
	}
	if err != nil {
		return nodeID{}, err
	}
	b, err := kv.ParseNodeID(id.Node())
	return b, err
}

// joined reports whether the node of the dir has joined a cluster.
func (d *dataDir) joined() bool {
	id, err := d.readIdentity()
	if errors.Is(err, atrest.ErrNoSeal) {
		s, err := transport.LookAtSealed(d.join(identityName))
		return err == nil && s != nil && s.Joined
	}
	return err == nil && id.Joined()
}

// ensureNodeID returns the id of the node and draws an identity first if there is none.
func (d *dataDir) ensureNodeID() (nodeID, error) {
	id, err := d.readNodeID()
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	fresh, err := transport.NewIdentity()
	if err != nil {
		return id, fmt.Errorf("draw an identity: %w", err)
	}
	if err := d.makeFolder(identityName); err != nil {
		return id, err
	}
	if err := d.step(failpoint.IdentityFolder); err != nil {
		return id, err
	}
	if err := fresh.Save(d.join(identityName), d.seal); err != nil {
		return id, storageError(fmt.Errorf("record the identity: %w", err))
	}
	if err := d.step(failpoint.IdentityDrawn); err != nil {
		return id, err
	}
	return d.readNodeID()
}

// makeFolder makes a folder in the dir, durably. It may be there already.
func (d *dataDir) makeFolder(name string) error {
	if err := os.Mkdir(d.join(name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return storageError(err)
	}
	if err := syncDir(d.path); err != nil {
		return storageError(err)
	}
	return nil
}
