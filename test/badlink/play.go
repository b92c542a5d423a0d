//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// cue is a line of a scenario: "at 5s set a-b loss 10%" counts from the start, "after 2s heal" from the line before.
type cue struct {
	after   bool
	offset  time.Duration
	command []string
}

// parseScenario reads a scenario. Empty lines and what follows a # are left out.
func parseScenario(text string) (cues []cue, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 3 || f[0] != "at" && f[0] != "after" {
			return nil, fmt.Errorf("line %d: want at|after DURATION COMMAND", n)
		}
		c := cue{after: f[0] == "after", command: f[2:]}
		if c.offset, err = time.ParseDuration(f[1]); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		cues = append(cues, c)
	}
	return cues, nil
}

// play runs a scenario. It is read as a whole first, so that a slip in its last line does not spoil an hour.
func (i instance) play(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("play wants a FILE")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	cues, err := parseScenario(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	start := time.Now()
	for _, c := range cues {
		wait := c.offset
		if !c.after {
			wait -= time.Since(start)
		}
		time.Sleep(wait)
		out, err := i.call(ctx, c.command)
		fmt.Printf("%8.3fs %s\n%s", time.Since(start).Seconds(), strings.Join(c.command, " "), out)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", args[0], strings.Join(c.command, " "), err)
		}
	}
	return nil
}
