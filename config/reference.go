package config

import (
	"fmt"
	"strings"
)

// lineMax is the width of comments in the sample file.
const lineMax = 100

// Sample is a main file with every setting in it, explained and commented out. As it is, it changes nothing.
func Sample() string {
	var b strings.Builder
	b.WriteString(`# Configuration of a Holdfast agent. What is commented out shows the default.
#
# Stronger than this file are, in this order: files agent.d/*.yaml beside it, environment variables
# (HOLDFAST_LOG_LEVEL for log-level) and flags (--log-level). Check it with: agent config check
`)
	section := ""
	for _, f := range settings() {
		if f.envOnly {
			continue
		}
		indent := ""
		if before, _, nested := strings.Cut(f.key, "."); nested {
			indent = "  "
			if before != section {
				section = before
				fmt.Fprintf(&b, "\n%s:\n", section)
			}
		}
		b.WriteString("\n")
		for _, line := range wrap(sentence(f.help)+f.rule(), lineMax-len(indent)-2) {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
		f.writeSample(&b, indent)
	}
	return b.String()
}

func (f *field) writeSample(b *strings.Builder, indent string) {
	name := f.key[strings.LastIndexByte(f.key, '.')+1:]
	switch {
	case f.list() && f.def == "":
		fmt.Fprintf(b, "%s#%s: []\n", indent, name)
	case f.list():
		fmt.Fprintf(b, "%s#%s:\n", indent, name)
		for _, part := range splitList(f.def) {
			fmt.Fprintf(b, "%s#  - %s\n", indent, part)
		}
	case f.def == "":
		fmt.Fprintln(b, strings.TrimSuffix(indent+"#"+name+": \"\" # "+f.shown, " # "))
	default:
		fmt.Fprintf(b, "%s#%s: %s\n", indent, name, f.def)
	}
}

// rule is what values are allowed, as a sentence to stand behind the help.
func (f *field) rule() string {
	switch {
	case len(f.oneOf) > 0:
		return " One of " + strings.Join(f.oneOf, ", ") + "."
	case f.min != "" && f.max != "":
		return " From " + f.min + " to " + f.max + "."
	case f.min != "":
		return " At least " + f.min + "."
	default:
		return ""
	}
}

// sentence turns a help text, which cobra wants without either, into one with a capital and a full stop.
func sentence(help string) string {
	if help == "" {
		return ""
	}
	return strings.ToUpper(help[:1]) + help[1:] + "."
}

func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// Reference is the page on every setting, as Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceIntro)
	for _, f := range settings() {
		def := "`" + f.def + "`"
		if f.shown != "" || f.def == "" {
			def = orNone(f.shown)
		}
		note := ""
		if f.reload {
			note = " A reload takes it over."
		}
		if f.envOnly {
			note = " A secret: it is read from the variable `" + f.env() + "` only."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.key, f.kind(), strings.ReplaceAll(def, ",", "`, `"), sentence(f.help)+f.rule()+note)
	}
	return b.String()
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

const referenceIntro = `# Configuration

<!-- Written by: agent config doc. Change config/config.go and run it again. -->

An agent needs no configuration. What is set comes from these places, each stronger than the one before:

1. the defaults below, and the credentials of a unit of systemd: ` + "`token`" + ` is the ` + "`token-file`" + `, ` + "`tls-cert`" + ` and ` + "`tls-key`" + ` are
   ` + "`tls.cert-file`" + ` and ` + "`tls.key-file`" + `;
2. the file named by ` + "`--config`" + ` or ` + "`HOLDFAST_CONFIG`" + `, else ` + "`/etc/holdfast/agent.yaml`" + ` if it exists; YAML, TOML or JSON by its
   name;
3. the files ` + "`agent.d/*.yaml`" + ` beside that file, in lexical order;
4. environment variables: ` + "`store.flush`" + ` is ` + "`HOLDFAST_STORE_FLUSH`" + `; an empty one counts as not set;
5. flags: ` + "`store.flush`" + ` is ` + "`--store-flush`" + `.

A stronger value replaces a weaker one whole, lists included. Parts of a list are separated by commas in a variable, and
by commas or by repeating it in a flag. In a file, ` + "`store.flush`" + ` is the key ` + "`flush`" + ` in the section ` + "`store`" + `.
A file may have 64 KiB.

Durations are written ` + "`5s`, `10m`, `168h`" + `. Sizes are written ` + "`64MiB`" + ` (1024 based) or ` + "`64MB`" + ` (1000 based).

Names that do not exist are refused, in every place, and so is every value that makes no sense; the agent then lists all
that is wrong and exits with 78. Kubernetes sets ` + "`HOLDFAST_PORT*` and `HOLDFAST_SERVICE_*`" + ` for a service named holdfast: these
are ignored with one warning.

` + "`agent config init`" + ` writes a commented sample file, ` + "`agent config check`" + ` finds faults without starting anything, and
` + "`agent config show`" + ` names every value and where it comes from. On SIGHUP the agent loads everything again, takes over what
a reload can, and logs what has to wait for a restart.

| key | kind | default | meaning |
|---|---|---|---|
`
