//go:build linux

package main

import (
	"fmt"
	"strings"
)

func (h *Hub) index(name string) (int, error) {
	for i, ho := range h.hosts {
		if ho.Name == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no host %q", name)
}

// directions lists the directions [from, to] that f wants.
func (h *Hub) directions(f func(i, j int) bool) (out [][2]int) {
	for i := range h.hosts {
		for j := range h.hosts {
			if i != j && f(i, j) {
				out = append(out, [2]int{i, j})
			}
		}
	}
	return out
}

// targets turns "a-b", "a>b", "a", "a>", ">a", "all" or "a,b|c" into directions.
func (h *Hub) targets(t string) ([][2]int, error) {
	if t == "all" {
		return h.directions(func(int, int) bool { return true }), nil
	}
	if strings.Contains(t, "|") {
		return h.between(t)
	}
	if from, to, ok := strings.Cut(t, ">"); ok {
		return h.oneWay(from, to)
	}
	if i, err := h.index(t); err == nil {
		return h.directions(func(x, y int) bool { return x == i || y == i }), nil
	}
	// Host names may themselves contain a dash: try each one as the separator.
	for k := range t {
		if t[k] == '-' {
			i, e1 := h.index(t[:k])
			j, e2 := h.index(t[k+1:])
			if e1 == nil && e2 == nil && i != j {
				return [][2]int{{i, j}, {j, i}}, nil
			}
		}
	}
	return nil, fmt.Errorf("bad target %q (a-b, a>b, a, a>, >a, a,b|c, all)", t)
}

// between is every direction from one group of hosts to another.
func (h *Hub) between(t string) ([][2]int, error) {
	group := map[int]int{}
	for g, part := range strings.Split(t, "|") {
		for n := range strings.SplitSeq(part, ",") {
			i, err := h.index(n)
			if err != nil {
				return nil, err
			}
			group[i] = g + 1
		}
	}
	return h.directions(func(i, j int) bool { return group[i] != 0 && group[j] != 0 && group[i] != group[j] }), nil
}

// oneWay is the directions from a host to a host; an empty name is any.
func (h *Hub) oneWay(from, to string) (out [][2]int, err error) {
	i, j := -1, -1
	if from != "" {
		if i, err = h.index(from); err != nil {
			return nil, err
		}
	}
	if to != "" {
		if j, err = h.index(to); err != nil {
			return nil, err
		}
	}
	return h.directions(func(x, y int) bool { return (i < 0 || x == i) && (j < 0 || y == j) }), nil
}
