// Package e2e tests the built binary from the outside, as devices, operators and the service manager meet it: killed
// again and again under load, on a full disk, with every refusal it has, behind a link that is cut, under a real
// systemd, and from a fresh tree with no configuration.
//
// The tests have the build tag e2e and are run by make e2e. They want root and Linux; where something they need cannot
// be had they fail and say what, they never pass unrun. What they read from the environment:
//
//	AGENT   the binary
//	CACHE   a folder for what is expensive to make
//	SEED    of the kill test, to run one again; drawn and printed if not set
//	KILLS   how often the kill test kills, 200 if not set
//	CUT     how long the link to a proxy is cut, 30s if not set
package e2e
