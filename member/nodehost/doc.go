// Package nodehost is the raft library's node, where it compiles.
//
// The library was made and tested for 64 bits; pebble, a storage engine that it brings along and that our own build leaves out
// (see internal/absent), compiles for nothing else. Programs for processors of 32 bits, and any that is built with the tag proxyonly, get the same names with nothing behind them: New is an
// error, so that nobody ever has a Host. They are proxies, and agent refuses to make them anything else; see Built.
package nodehost
