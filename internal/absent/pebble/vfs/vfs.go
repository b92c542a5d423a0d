// Package vfs has the names of pebble's file system that dragonboat compiles against.
package vfs

import (
	"io"
	"os"
)

// DiskUsage is how full a disk is.
type DiskUsage struct {
	AvailBytes, TotalBytes, UsedBytes uint64
}

// File is an open file or folder.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.Closer
	Stat() (os.FileInfo, error)
	Sync() error
}

// OpenOption is applied to a file once it is open.
type OpenOption interface {
	Apply(f File)
}

// FS is a file system.
type FS interface {
	Create(name string) (File, error)
	Link(oldname, newname string) error
	Open(name string, opts ...OpenOption) (File, error)
	OpenDir(name string) (File, error)
	Remove(name string) error
	RemoveAll(name string) error
	Rename(oldname, newname string) error
	ReuseForWrite(oldname, newname string) (File, error)
	MkdirAll(dir string, perm os.FileMode) error
	Lock(name string) (io.Closer, error)
	List(dir string) ([]string, error)
	Stat(name string) (os.FileInfo, error)
	PathBase(path string) string
	PathJoin(elem ...string) string
	PathDir(path string) string
	GetDiskUsage(path string) (DiskUsage, error)
}
