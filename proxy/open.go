package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// openCache opens the cache, moving one aside that cannot be read, and lets go of spans that are no longer configured.
func openCache(o Options) (*cache.Cache, error) {
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	c, err := cache.Open(o.Path, o.MaxBytes, o.Boot)
	if err != nil {
		o.Log.Warn("cache cannot be read and starts empty; its contents will be fetched again", "file", o.Path, "error", err)
		if err := os.Remove(o.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("proxy: remove the unreadable cache: %w", err)
		}
		if c, err = cache.Open(o.Path, o.MaxBytes, o.Boot); err != nil {
			return nil, err
		}
	}
	for _, s := range c.Spans() {
		wanted := slices.ContainsFunc(o.Prefixes, func(p []byte) bool {
			key, end := kv.PrefixRange(p)
			return bytes.Equal(s.Key, key) && bytes.Equal(s.End, end)
		})
		if !wanted {
			if err := errors.Join(c.Drop(s.Key, s.End), c.Flush()); err != nil {
				return nil, errors.Join(err, c.Close())
			}
		}
	}
	return c, nil
}
