// Package pebble stands in for a storage engine that is never opened: it has the names that dragonboat compiles against, and
// Open returns ErrAbsent. Without a DB none of the other methods can be reached.
package pebble

import (
	"errors"
	"io"

	"github.com/cockroachdb/pebble/vfs"
)

var (
	// ErrAbsent is what Open returns.
	ErrAbsent = errors.New("pebble is not part of this program")
	// ErrNotFound is never returned.
	ErrNotFound = errors.New("pebble: not found")
)

// DB is never made.
type DB struct{}

// Open returns ErrAbsent.
func Open(string, *Options) (*DB, error) { return nil, ErrAbsent }

// Close returns ErrAbsent, as all of DB's methods do that can.
func (*DB) Close() error { return ErrAbsent }

// Get returns ErrAbsent.
func (*DB) Get([]byte) ([]byte, io.Closer, error) { return nil, nil, ErrAbsent }

// Set returns ErrAbsent.
func (*DB) Set(_, _ []byte, _ *WriteOptions) error { return ErrAbsent }

// Delete returns ErrAbsent.
func (*DB) Delete([]byte, *WriteOptions) error { return ErrAbsent }

// Apply returns ErrAbsent.
func (*DB) Apply(*Batch, *WriteOptions) error { return ErrAbsent }

// Compact returns ErrAbsent.
func (*DB) Compact(_, _ []byte, _ bool) error { return ErrAbsent }

// NewBatch returns a batch that takes nothing.
func (*DB) NewBatch() *Batch { return &Batch{} }

// NewIter returns an iterator that has failed.
func (*DB) NewIter(*IterOptions) *Iterator { return &Iterator{} }

// Metrics returns zeros.
func (*DB) Metrics() *Metrics { return &Metrics{} }

// Batch takes nothing.
type Batch struct{}

// Set returns ErrAbsent.
func (*Batch) Set(_, _ []byte, _ *WriteOptions) error { return ErrAbsent }

// Delete returns ErrAbsent.
func (*Batch) Delete([]byte, *WriteOptions) error { return ErrAbsent }

// DeleteRange returns ErrAbsent.
func (*Batch) DeleteRange(_, _ []byte, _ *WriteOptions) error { return ErrAbsent }

// Count is 0.
func (*Batch) Count() uint32 { return 0 }

// Close returns nil.
func (*Batch) Close() error { return nil }

// Iterator has failed.
type Iterator struct{}

// SeekGE finds nothing.
func (*Iterator) SeekGE([]byte) bool { return false }

// Next finds nothing.
func (*Iterator) Next() bool { return false }

// Valid is false.
func (*Iterator) Valid() bool { return false }

// Error returns ErrAbsent.
func (*Iterator) Error() error { return ErrAbsent }

// Key is nil.
func (*Iterator) Key() []byte { return nil }

// Value is nil.
func (*Iterator) Value() []byte { return nil }

// Close returns nil.
func (*Iterator) Close() error { return nil }

// Options are for Open.
type Options struct {
	Cache                       *Cache
	EventListener               EventListener
	FS                          vfs.FS
	L0CompactionFileThreshold   int
	L0StopWritesThreshold       int
	LBaseMaxBytes               int64
	Levels                      []LevelOptions
	Logger                      Logger
	MaxManifestFileSize         int64
	MemTableSize                int
	MemTableStopWritesThreshold int
	WALDir                      string
}

// LevelOptions are for a level of the tree.
type LevelOptions struct {
	BlockSize      int
	Compression    Compression
	TargetFileSize int64
}

// Compression is a way to compress blocks.
type Compression int

// NoCompression is none.
const NoCompression Compression = 1

// IterOptions are for NewIter.
type IterOptions struct{}

// WriteOptions are for writes.
type WriteOptions struct{ Sync bool }

// Cache holds nothing.
type Cache struct{}

// NewCache returns a cache of nothing.
func NewCache(int64) *Cache { return &Cache{} }

// Unref does nothing.
func (*Cache) Unref() {}

// EventListener is never called.
type EventListener struct {
	CompactionEnd func(CompactionInfo)
	FlushEnd      func(FlushInfo)
	WALCreated    func(WALCreateInfo)
}

// What an EventListener would be told.
type (
	CompactionInfo struct{}
	FlushInfo      struct{}
	WALCreateInfo  struct{}
)

// Metrics are zeros.
type Metrics struct {
	Levels   [7]LevelMetrics
	MemTable struct{ Size uint64 }
}

// LevelMetrics are those of a level.
type LevelMetrics struct{ Sublevels int32 }

// Logger is what the engine would log to.
type Logger interface {
	Infof(format string, args ...any)
	Fatalf(format string, args ...any)
}

// DefaultLogger is silent.
var DefaultLogger silent

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Fatalf(string, ...any) {}
