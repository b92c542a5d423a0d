package member

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"holdfast/kv"
	"holdfast/mvcc"
)

const (
	// backupsAtOnce is how many copies of the state may be under way.
	backupsAtOnce = 2
	// backupMax is how long one may take. Until it ends the state file cannot use again what is freed meanwhile, so it
	// grows by what is written: within half an hour a link has carried 2 GiB at 1.2 MB/s.
	backupMax = 30 * time.Minute
)

// Snapshot opens a backup as of now, all but the checksum at its end: a copy of the state file, a whole bbolt file, and a
// block that says what it is; see BackupInfo. Its size is a multiple of 512. While there is a quorum it holds every write
// that was acknowledged before the call. It ends after backupMax if it is not closed before.
//
// What it is good for: Restore makes a new cluster of it. It can also be put back as state.db of the stopped member that
// it is from, whose raft log then brings it up to date, unless the log has been cut since: the start says so.
func (m *Member) Snapshot(ctx context.Context) (data io.ReadSeekCloser, size int64, err error) {
	if m.isStopping() {
		return nil, 0, errStopping()
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, kv.Errorf(kv.Stopping, "the caller gave up: %w", err)
	}
	m.catchUp(ctx)
	return m.copyState()
}

// backupRound is how long a backup waits to see what was acknowledged anywhere before it was asked for.
const backupRound = 5 * time.Second

// catchUp takes a read-index round. Without a quorum there is none: then the backup is of what this member has, which may be
// the last there is of it.
func (m *Member) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, backupRound)
	defer cancel()
	if err := m.rounds.join(ctx); err != nil {
		m.cfg.Log.Warn("backup without a quorum: it holds what this member has, which may lack the newest writes", "err", err)
	}
}

func (m *Member) copyState() (data io.ReadSeekCloser, size int64, err error) {
	select {
	case m.backups <- struct{}{}:
	default:
		return nil, 0, kv.Errorf(kv.Busy, "%d copies of the state are under way, the limit: wait until one has ended", backupsAtOnce)
	}
	sn, err := m.store.Snapshot()
	if err != nil {
		<-m.backups
		return nil, 0, asKV(err)
	}
	pages, size, err := sn.Image()
	if err != nil {
		<-m.backups
		return nil, 0, asKV(errors.Join(err, sn.Close()))
	}
	info := infoOf(sn, size, m.cfg.Version, time.Now()).block()
	whole := &tailed{pages: pages, size: size, tail: info}
	b := &backup{data: io.NewSectionReader(whole, 0, size+int64(len(info))), sn: sn, free: m.backups}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = time.AfterFunc(backupMax, b.expire)
	return b, b.data.Size(), nil
}

// tailed is so many bytes and something behind them.
type tailed struct {
	pages io.ReaderAt
	size  int64
	tail  []byte
}

func (t *tailed) ReadAt(p []byte, off int64) (n int, err error) {
	if off < t.size {
		n, err = t.pages.ReadAt(p[:min(int64(len(p)), t.size-off)], off)
	}
	if n == len(p) || err != nil {
		return n, err
	}
	at := off + int64(n) - t.size
	more := copy(p[n:], t.tail[min(at, int64(len(t.tail))):])
	if n += more; n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// backup is a copy of the state that is being read.
type backup struct {
	timer *time.Timer
	free  <-chan struct{} // gives its place back

	mu   sync.Mutex
	data *io.SectionReader
	sn   *mvcc.Snapshot
	err  error // why nothing is read any more
}

func (b *backup) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	return b.data.Read(p)
}

// Seek goes to where a reader that was cut off goes on.
func (b *backup) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	return b.data.Seek(offset, whence)
}

func (b *backup) expire() {
	_ = b.end(kv.Errorf(kv.Busy, "the copy of the state was not read within %s, and held up the reuse of space: ask again over a faster link", backupMax))
}

// Close lets go of the state file. The second time it does nothing.
func (b *backup) Close() error {
	return b.end(kv.Errorf(kv.Invalid, "the copy of the state is closed"))
}

func (b *backup) end(why error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil
	}
	b.err = why
	b.timer.Stop()
	<-b.free
	return b.sn.Close()
}
