package apitest

import (
	"testing"

	"holdfast/api"
)

// memory is the harness of Memory. Its restart is none: what it holds is all there is.
var memory = Harness{
	Open:    func(*testing.T) api.Backend { return NewMemory() },
	Restart: func(_ *testing.T, b api.Backend) api.Backend { return b },
	IDs:     true,
}

func TestMemoryKeepsThePromises(t *testing.T) { memory.Run(t) }
