package config

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// The name of the main file is not itself a setting: it has a flag and a variable, and no key.
const (
	configFlag = "config"
	configEnv  = envPrefix + "CONFIG"
)

// AddFlags adds a flag for every setting, and --config. What users write is checked by Load, not by the flags, so that
// all faults come out together.
func AddFlags(flags *pflag.FlagSet) {
	flags.String(configFlag, "", "main configuration file, YAML, TOML or JSON (default "+DefaultDir+"/"+mainName+" if it exists)")
	for _, f := range settings() {
		if f.envOnly {
			continue
		}
		help := f.help
		if len(f.oneOf) > 0 {
			help += "; one of " + strings.Join(f.oneOf, ", ")
		}
		flag := flags.VarPF(&flagValue{field: f}, f.flag(), "", help)
		flag.DefValue = f.described()
		if f.kind() == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
}

// FlagGroup is flags of one purpose.
type FlagGroup struct {
	Title string
	Flags *pflag.FlagSet
}

// FlagGroups sorts what AddFlags has added by purpose: first the flags that are used most, then those of each section. Flags of
// other origin are in none of them.
func FlagGroups(flags *pflag.FlagSet) []FlagGroup {
	var groups []FlagGroup
	add := func(title, name string) {
		i := slices.IndexFunc(groups, func(g FlagGroup) bool { return g.Title == title })
		if i < 0 {
			i = len(groups)
			groups = append(groups, FlagGroup{title, pflag.NewFlagSet(title, pflag.ContinueOnError)})
			groups[i].Flags.SortFlags = false // the order of Config says what matters more
		}
		if f := flags.Lookup(name); f != nil {
			groups[i].Flags.AddFlag(f)
		}
	}
	for _, f := range settings() {
		if f.often {
			add("used most", f.flag())
		}
	}
	add("used most", configFlag)
	for _, f := range settings() {
		switch {
		case f.often || f.envOnly:
		case f.title == "":
			add("this node", f.flag())
		default:
			add(f.title, f.flag())
		}
	}
	return groups
}

// described is the default as help texts name it, "" for none.
func (f *field) described() string {
	switch {
	case f.shown != "":
		return f.shown
	case f.def == "none" || f.def == "false":
		return ""
	default:
		return f.def
	}
}

// ParseFlags parses arguments as far as it can and reports every unknown flag, where cobra stops at the first. also are
// flags that are allowed besides the settings.
func ParseFlags(args []string, also ...*pflag.Flag) (*pflag.FlagSet, error) {
	var faults []*Fault
	for {
		flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		AddFlags(flags)
		for _, f := range also {
			if flags.Lookup(f.Name) == nil {
				flags.AddFlag(f)
			}
		}
		err := flags.Parse(args)
		if err == nil {
			return flags, join(faults)
		}
		faults = append(faults, flagFault(err))
		unknown, ok := errors.AsType[*pflag.NotExistError](err)
		if !ok {
			return flags, join(faults)
		}
		args = without(args, unknown)
	}
}

func flagFault(err error) *Fault {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return &Fault{Problem: err.Error()}
	}
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return &Fault{Key: "-" + short, Problem: "there is no such flag: flags have two dashes, as --mode"}
	}
	name := unknown.GetSpecifiedName()
	names := []string{configFlag}
	for _, f := range settings() {
		switch {
		case !f.envOnly:
			names = append(names, f.flag())
		case f.flag() == name:
			return &Fault{Key: "--" + name, Problem: "is a secret and no flag, which every user of this machine could read: use --" + name + "-file FILE or " + f.env()}
		}
	}
	return &Fault{Key: "--" + name, Problem: "there is no such flag" + didYouMeanFlag(name, names)}
}

func didYouMeanFlag(name string, names []string) string {
	if best := Nearest(name, names); best != "" {
		return ": did you mean --" + best + "?"
	}
	return ""
}

// without removes an unknown flag and the value that seems to follow it. It always removes something.
func without(args []string, unknown *pflag.NotExistError) []string {
	for i, arg := range args {
		name, _, hasValue := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		long := strings.HasPrefix(arg, "--") && name == unknown.GetSpecifiedName()
		short := unknown.GetSpecifiedShortnames() != "" && strings.HasPrefix(arg, "-"+unknown.GetSpecifiedShortnames())
		if !long && !short {
			continue
		}
		rest := args[i+1:]
		if !hasValue && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			rest = rest[1:]
		}
		return append(args[:i:i], rest...)
	}
	return nil
}

// flagValue keeps what was written. Repeated, a list grows and anything else is replaced.
type flagValue struct {
	field *field
	text  string
	set   bool
}

func (v *flagValue) String() string { return v.text }
func (v *flagValue) Type() string   { return v.field.kind() }

func (v *flagValue) Set(text string) error {
	if v.set && v.field.list() {
		text = v.text + "," + text
	}
	v.text, v.set = text, true
	return nil
}
