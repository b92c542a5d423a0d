package contract

import (
	"testing"
	"time"

	"holdfast/api"
	"holdfast/api/apitest"
	members "holdfast/test/cluster"
)

// openThree starts a cluster of three, whose links delay little, and picks one of its members.
func openThree(pick func(c *members.Cluster) *members.Node) func(t *testing.T) api.Backend {
	return func(t *testing.T) api.Backend {
		t.Helper()
		c := members.New(t, members.Options{Seed: 1, Delay: 100 * time.Microsecond})
		c.Start()
		return pick(c).Member
	}
}

func TestTheLeaderOfThreeKeepsTheContract(t *testing.T) {
	t.Parallel()
	apitest.Run(t, openThree((*members.Cluster).Leader))
}

func TestAFollowerKeepsTheContract(t *testing.T) {
	t.Parallel()
	apitest.Run(t, openThree(func(c *members.Cluster) *members.Node { return c.Others(c.Leader())[0] }))
}
