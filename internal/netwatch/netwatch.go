// Package netwatch hears of changes of this machine's addresses, links and routes.
package netwatch

import "context"

// Run calls changed after each change, or once for several that come together, until ctx ends. The kernel does not say whether a
// change matters: that is for changed to find out. It is called by one goroutine, and what happens meanwhile is told afterwards.
// The error says why changes cannot be heard of; where the platform does not tell, Run only waits.
func Run(ctx context.Context, changed func()) error { return run(ctx, changed) }
