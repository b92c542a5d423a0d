// Package apitest holds what is promised of every api.Backend, as tests: Run them on a node of any kind. Memory is the
// plainest node that passes, and serves as a model elsewhere.
package apitest
