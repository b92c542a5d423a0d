package config

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Sources is where Load looks. The zero value has no flags and no environment and looks for files in DefaultDir.
type Sources struct {
	Flags    *pflag.FlagSet         // parsed, with the flags of AddFlags; may be nil
	Environ  []string               // as os.Environ gives it
	Dir      string                 // instead of DefaultDir
	Hostname func() (string, error) // instead of os.Hostname
}

// Loaded is what Load found.
type Loaded struct {
	Config     Config
	Provenance Provenance
	Files      []string // files read, in order
	Warnings   []string // worth a log line, but no fault
}

// Load puts together, each stronger than the one before: defaults, the credentials of the service manager (see
// credentials), the main file, the files of agent.d beside it in lexical order, the environment, and flags. A stronger value replaces a weaker one whole, lists included.
//
// The error joins every Fault of every layer, those of overridden values too. The settings are then what can be made of
// the rest: good enough to set up logging, not to run.
func Load(s Sources) (Loaded, error) {
	l := loader{schema: settings()}
	var out Loaded
	l.loadCredentials(s.Environ)
	out.Files = l.loadFiles(s)
	l.loadEnviron(s.Environ)
	l.loadFlags(s.Flags)
	out.Config, out.Provenance = l.merge()
	out.Config.Complete(l.hostname(s.Hostname))
	l.faults = append(l.faults, out.Config.verifyWhole(out.Provenance)...)
	out.Warnings = slices.Concat(l.warnings, out.Config.openSecrets())
	return out, join(l.faults)
}

// layer is the values of one source, by key.
type layer map[string]entry

type entry struct {
	raw    any // as decoded, not yet checked
	origin Origin
}

// loader collects layers, the weakest first, and everything wrong with them.
type loader struct {
	schema   schema
	layers   []layer
	faults   []*Fault
	warnings []string
}

func (l *loader) add(values layer) { l.layers = append(l.layers, values) }

func (l *loader) loadFiles(s Sources) []string {
	main := configName(s)
	paths, warnings, err := files(main, cmp.Or(s.Dir, DefaultDir))
	if err != nil {
		l.faults = append(l.faults, &Fault{Problem: err.Error(), Err: err})
	}
	l.warnings = append(l.warnings, warnings...)
	for _, path := range paths {
		values, faults := l.schema.readFile(path)
		l.add(values)
		l.faults = append(l.faults, faults...)
	}
	return paths
}

// credentials are the names under which systemd may hand over a file (LoadCredential=NAME:PATH), which nobody else on the
// machine sees, and the settings that then name it.
var credentials = []struct{ name, key string }{
	{"token", "token-file"},
	{"holdfast.seal", "seal-file"},
	{"tls-cert", "tls.cert-file"},
	{"tls-key", "tls.key-file"},
}

// credentialsEnv names the folder of credentials: systemd.exec(5).
const credentialsEnv = "CREDENTIALS_DIRECTORY"

// loadCredentials finds what LoadCredential= of a unit has put there.
func (l *loader) loadCredentials(environ []string) {
	for _, pair := range environ {
		dir, ok := strings.CutPrefix(pair, credentialsEnv+"=")
		if !ok || dir == "" {
			continue
		}
		values := layer{}
		for _, c := range credentials {
			path := filepath.Join(dir, c.name)
			if _, err := os.Stat(path); err == nil { // not there: nobody passed one
				values[c.key] = entry{raw: path, origin: Origin{Layer: LayerEnvironment, Name: credentialsEnv}}
			}
		}
		l.add(values)
	}
}

// configName is the main file asked for, or "".
func configName(s Sources) string {
	if s.Flags != nil {
		if f := s.Flags.Lookup(configFlag); f != nil && f.Changed {
			return f.Value.String()
		}
	}
	for _, pair := range s.Environ {
		if name, ok := strings.CutPrefix(pair, configEnv+"="); ok {
			return name
		}
	}
	return ""
}

func (l *loader) loadEnviron(environ []string) {
	values, known := layer{}, map[string]*field{}
	for _, f := range l.schema {
		known[f.env()] = f
	}
	var injected []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || value == "" || name == configEnv {
			continue
		}
		origin := Origin{Layer: LayerEnvironment, Name: name}
		if f, ok := known[name]; ok {
			values[f.key] = entry{raw: value, origin: origin}
		} else if injectedByKubernetes(name) {
			injected = append(injected, name)
		} else {
			names := append(l.schema.names((*field).env), configEnv)
			l.faults = append(l.faults, &Fault{Key: name, Origin: Origin{}, Problem: "there is no such variable" + didYouMean(name, names)})
		}
	}
	if len(injected) > 0 {
		slices.Sort(injected)
		l.warnings = append(l.warnings, fmt.Sprintf("ignoring %s: Kubernetes sets them for a service named holdfast (enableServiceLinks: false in the pod stops it)", strings.Join(injected, ", ")))
	}
	l.add(values)
}

// injectedByKubernetes recognises the variables that every pod gets for a service named holdfast.
func injectedByKubernetes(name string) bool {
	rest := strings.TrimPrefix(name, envPrefix)
	return strings.HasPrefix(rest, "PORT") || strings.HasPrefix(rest, "SERVICE_")
}

func (l *loader) loadFlags(flags *pflag.FlagSet) {
	values := layer{}
	if flags != nil {
		for _, f := range l.schema {
			given := flags.Lookup(f.flag())
			if given == nil || !given.Changed || f.envOnly {
				continue
			}
			values[f.key] = entry{raw: given.Value.String(), origin: Origin{Layer: LayerFlag, Name: "--" + f.flag()}}
		}
	}
	l.add(values)
}

// merge checks every value of every layer and lets viper put the good ones over each other.
func (l *loader) merge() (Config, Provenance) {
	v, from := viper.New(), Provenance{}
	for _, f := range l.schema {
		def, err := f.defaultValue()
		if err != nil {
			panic(err) // newField has tried it
		}
		v.SetDefault(f.key, def.Interface())
	}
	for _, values := range l.layers {
		for _, f := range l.schema {
			if e, ok := values[f.key]; ok {
				if value, ok := l.accept(f, e); ok {
					v.Set(f.key, value.Interface())
					from[f.key] = e.origin
				}
			}
		}
	}
	var c Config
	if err := v.UnmarshalExact(&c); err != nil {
		panic(fmt.Sprintf("config: %v", err)) // every value has the type of its field
	}
	return c, from
}

func (l *loader) accept(f *field, e entry) (reflect.Value, bool) {
	value, err := f.parse(e.raw)
	if err == nil {
		err = f.verify(value)
	}
	if err == nil {
		return value, true
	}
	fault := &Fault{Key: f.key, Origin: e.origin, Problem: err.Error()}
	if !f.secret() {
		fault.Value = fmt.Sprint(e.raw)
	}
	l.faults = append(l.faults, fault)
	return value, false
}

func (l *loader) hostname(ask func() (string, error)) string {
	if ask == nil {
		ask = os.Hostname
	}
	name, err := ask()
	if err != nil {
		l.warnings = append(l.warnings, fmt.Sprintf("no host name to take the name from: %v (set name)", err))
	}
	return name
}
