package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/config"
)

func (p *program) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [flags]",
		Short: "Show how the agent is doing",
		Args:  noArgs(exitUsage),
	}
	f := addClientFlags(cmd)
	cmd.RunE = p.show(f, statusPath, p.printStatus)
	return cmd
}

// printStatus prints whatever the agent reports, line by line, so that a newer agent's news is shown too. Lists of things
// become tables behind that. Sizes and times get a unit that can be read.
func (p *program) printStatus(doc []byte) error {
	tree, err := parseTree(doc)
	if err != nil {
		return exitf(exitRefused, "the status is no JSON: %w", err)
	}
	tables := tree.detach("", nil)
	rows := withoutLeader(tree.leaves("", nil))
	for _, row := range rows {
		row[1] = readable(row[0], row[1])
	}
	if err := printTable(p.stdout, nil, rows); err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := fmt.Fprintf(p.stdout, "\n%s\n", t.name); err != nil {
			return err
		}
		head, rows := t.list.columns()
		for _, row := range rows {
			for i := range row {
				row[i] = readable(head[i], row[i])
			}
		}
		for i := range head {
			head[i] = strings.ToUpper(head[i])
		}
		if err := printTable(p.stdout, head, rows); err != nil {
			return err
		}
	}
	return nil
}

// withoutLeader says so where a member has no leader, which an agent tells by leaving it out: it is the first thing to know then.
func withoutLeader(rows [][]string) [][]string {
	named := func(name string) int {
		return slices.IndexFunc(rows, func(row []string) bool { return row[0] == name })
	}
	replica := named("member.replica_id")
	if replica < 0 || named("member.leader") >= 0 {
		return rows
	}
	return slices.Insert(rows, replica+1, []string{"member.leader", "none: no quorum, so local reads only"})
}

// readable adds to a number what its name says of its unit.
func readable(name, text string) string {
	name = name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case strings.HasSuffix(name, "_bytes"), strings.HasPrefix(name, "bytes_"), name == "bytes":
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= int64(config.KiB) {
			return text + " (" + roughly(config.Size(n)) + ")"
		}
	case strings.HasSuffix(name, "_seconds"):
		s, err := strconv.ParseFloat(text, 64)
		if err != nil || s < 0 || s > float64(math.MaxInt64/time.Second) {
			return text
		}
		text = strconv.FormatFloat(math.Round(s*1000)/1000, 'f', -1, 64)
		if s >= 60 {
			text += " (" + ageText(time.Duration(s*float64(time.Second))) + ")"
		}
	}
	return text
}

// roughly rounds a size down to whole units, of which there are at most four digits.
func roughly(size config.Size) string {
	for _, unit := range []config.Size{config.TiB, config.GiB, config.MiB, config.KiB} {
		if size >= unit {
			return (size / unit * unit).String()
		}
	}
	return size.String()
}
