// Package relay is for those who stand between the consumer of a watch stream and what feeds it: a proxy, an exchange of nodes, a
// namespace. Controls hands on what the consumer asks for; a Stream goes on where it was when one source takes the place of another.
package relay

import (
	"context"

	"holdfast/kv"
)

// Controls hands on what comes from one channel to the other until ctx ends or the first is closed; then it closes the second.
// Take is called with each, and with ok false for the end, before it is handed on; it may change it. Controls returns once
// all of that is over.
func Controls(ctx context.Context, from <-chan kv.WatchControl, to chan<- kv.WatchControl, take func(c *kv.WatchControl, ok bool)) {
	for {
		select {
		case c, ok := <-from:
			if take(&c, ok); !ok {
				close(to)
				return
			}
			select {
			case to <- c:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
