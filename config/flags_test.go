package config

import (
	"testing"

	"github.com/spf13/pflag"
)

func TestEveryFlagIsInOneGroupWithATitle(t *testing.T) {
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	AddFlags(flags)
	flags.Bool("other", false, "a flag of the command's own")
	in := map[string]string{}
	groups := FlagGroups(flags)
	for _, g := range groups {
		if g.Title == "" {
			t.Errorf("a group has no title: its section in Config needs one")
		}
		g.Flags.VisitAll(func(f *pflag.Flag) {
			if before, twice := in[f.Name]; twice {
				t.Errorf("--%s is in %q and in %q", f.Name, before, g.Title)
			}
			in[f.Name] = g.Title
		})
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if _, there := in[f.Name]; there == (f.Name == "other") {
			t.Errorf("--%s: in a group %v", f.Name, there)
		}
	})
	first := groups[0].Flags
	if first.Lookup("mode") == nil || first.Lookup("join") == nil || first.Lookup("config") == nil || first.Lookup("limits-txn-ops") != nil {
		t.Errorf("used most are\n%s", first.FlagUsages())
	}
}
