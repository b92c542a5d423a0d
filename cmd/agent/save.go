package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"holdfast/agent"
)

const (
	// saveTries is how often in a row a cut link is connected again without a byte coming through.
	saveTries = 8
	// savePause is the pause before that, each time twice as long, up to savePauseMax.
	savePause    = 250 * time.Millisecond
	savePauseMax = 15 * time.Second
	// saveStall is how long nothing may arrive before the link counts as cut.
	saveStall = 30 * time.Second
)

// saver takes a backup into path. What has arrived lies in path.ID.part, where ID is the entity tag of the copy that the
// agent holds for it, so that another run goes on with it.
type saver struct {
	*program
	client *client
	path   string
	dir    string // where old backups are removed, "" for nowhere
	keep   int

	id    string
	part  *os.File
	at    int64 // bytes in part
	total int64 // bytes that there will be; 0 while not known
}

// backupName is the form of the names that --dir gives.
var backupName = regexp.MustCompile(`^holdfast-\d{8}T\d{6}Z\.backup$`)

func (s *saver) fileIn(now time.Time) string {
	return filepath.Join(s.dir, "holdfast-"+now.UTC().Format("20060102T150405Z")+".backup")
}

// save returns once the backup is whole, verified, on disk and under its name.
func (s *saver) save(ctx context.Context) (r agent.BackupReport, err error) {
	if _, err := os.Stat(s.path); err == nil {
		return r, exitf(exitRefused, "%s is there already: choose another name, or remove it", s.path)
	}
	if err := s.findPart(); err != nil {
		return r, exitf(exitRefused, "%w", err)
	}
	bar := s.progress()
	err = s.fetch(ctx, bar)
	bar.end()
	if s.part == nil {
		return r, err
	}
	name := s.part.Name()
	if err = errors.Join(err, s.part.Sync(), s.part.Close()); err != nil {
		return r, s.interrupted(err)
	}
	if r, err = agent.VerifyBackup(ctx, name); err != nil {
		if ctx.Err() != nil {
			return r, offlineError(err)
		}
		return r, errors.Join(exitf(exitTemporary, "what arrived is not whole and was removed, take the backup again: %w", err), os.Remove(name))
	}
	if err := errors.Join(os.Rename(name, s.path), syncFolder(filepath.Dir(s.path))); err != nil {
		return r, exitf(exitRefused, "%w", err)
	}
	r.File = s.path
	return r, s.prune()
}

// interrupted says that the rest can still be had.
func (s *saver) interrupted(err error) error {
	code := exitTemporary
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.code
	}
	return exitf(code, "%w; %d bytes have arrived: the same command within two minutes goes on behind them", err, s.at)
}

// findPart opens what an earlier run has left. Where --dir gives another name each time, that is removed.
func (s *saver) findPart() error {
	pattern := s.path
	if s.dir != "" {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return err
		}
		pattern = filepath.Join(s.dir, "holdfast-*.backup")
	}
	if _, err := os.Stat(filepath.Dir(s.path)); s.dir == "" && err != nil {
		return exitf(exitRefused, "the folder for the backup: %w", err)
	}
	left, err := filepath.Glob(pattern + ".*.part")
	if err != nil {
		return fmt.Errorf("%s: a name without any of *?[\\ is needed: %w", s.path, err)
	}
	for i, name := range left {
		if i < len(left)-1 || s.dir != "" {
			if err := os.Remove(name); err != nil {
				return err
			}
			continue
		}
		s.id = strings.TrimSuffix(strings.TrimPrefix(name, s.path+"."), ".part")
		if s.part, err = os.OpenFile(name, os.O_RDWR, 0o600); err != nil {
			return err
		}
		if s.at, err = s.part.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	return nil
}

// fetch reads until all has arrived.
func (s *saver) fetch(ctx context.Context, bar *progress) error {
	pause := savePause
	for tries := 0; ; tries++ {
		before := s.at
		err := s.fetchOnce(ctx, bar)
		if err == nil {
			return nil
		}
		if s.at > before {
			tries, pause = 0, savePause
		}
		e, told := errors.AsType[*exitError](err)
		final := told && e.code != exitTemporary && (e.code != exitUnavailable || s.at == 0)
		if ctx.Err() != nil || final || s.at == 0 || tries >= saveTries {
			return err
		}
		timer := time.NewTimer(pause)
		pause = min(2*pause, savePauseMax)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// fetchOnce reads as far as one connection goes.
func (s *saver) fetchOnce(ctx context.Context, bar *progress) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(max(saveStall, s.client.timeout), cancel)
	defer stalled.Stop()
	c := call{method: http.MethodGet, path: "/v1/snapshot", query: url.Values{}, header: http.Header{}}
	if s.at > 0 {
		c.header.Set("If-Range", `"`+s.id+`"`)
		c.header.Set("Range", fmt.Sprintf("bytes=%d-", s.at))
	}
	resp, err := s.client.send(ctx, c)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := s.begin(resp); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		stalled.Reset(saveStall)
		if _, werr := s.part.Write(buf[:n]); werr != nil {
			return exitf(exitRefused, "%w", werr)
		}
		s.at += int64(n)
		bar.show("%.1f of %.1f MiB, %d %%", float64(s.at)/(1<<20), float64(s.total)/(1<<20), 100*s.at/max(1, s.total))
		switch {
		case errors.Is(err, io.EOF) && s.at == s.total:
			return nil
		case err != nil:
			return exitf(exitTemporary, "the link to %s was cut after %d of %d bytes: %w", s.client.target.name, s.at, s.total, err)
		}
	}
}

// begin makes ready for the body of an answer: the rest of what is there, or a whole new backup.
func (s *saver) begin(resp *http.Response) error {
	id := strings.Trim(resp.Header.Get("ETag"), `"`)
	if id == "" || strings.ContainsAny(id, `/\*?[`) || resp.ContentLength < 0 {
		return exitf(exitRefused, "%s sends no backup that could be taken: is it an agent, and no older than this one?", s.client.target.name)
	}
	if resp.StatusCode == http.StatusPartialContent {
		if id != s.id {
			return exitf(exitRefused, "%s goes on with another backup than was begun", s.client.target.name)
		}
		s.total = s.at + resp.ContentLength
		return nil
	}
	if s.part != nil { // the copy it was of is gone
		if err := errors.Join(s.part.Close(), os.Remove(s.part.Name())); err != nil {
			return exitf(exitRefused, "%w", err)
		}
	}
	part, err := os.OpenFile(s.path+"."+id+".part", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		s.part = nil
		return exitf(exitRefused, "%w", err)
	}
	s.part, s.id, s.at, s.total = part, id, 0, resp.ContentLength
	return nil
}

// prune removes the oldest backups of the folder beyond those to keep.
func (s *saver) prune() error {
	if s.dir == "" || s.keep == 0 {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return exitf(exitRefused, "%w", err)
	}
	var names []string
	for _, e := range entries {
		if backupName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names) // by time
	for _, name := range names[:max(0, len(names)-s.keep)] {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
			return exitf(exitRefused, "the backup was taken, but an old one could not be removed: %w", err)
		}
	}
	return nil
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
