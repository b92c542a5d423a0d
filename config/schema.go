package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// envPrefix starts the name of every variable that is ours.
const envPrefix = "HOLDFAST_"

// field is one setting, as its struct tags describe it.
type field struct {
	key     string // proxy.read-only
	index   []int  // for reflect.Value.FieldByIndex on a Config
	typ     reflect.Type
	def     string   // default as text
	shown   string   // default as described, if it depends on the machine
	help    string   //
	title   string   // of the section, "" outside of any
	often   bool     // used most
	oneOf   []string //
	min     string   //
	max     string   //
	check   string   //
	envOnly bool     //
	needed  bool     // an entry of a list must have it
	reload  bool     //
}

// flag is the name of the command line flag, without dashes.
func (f *field) flag() string { return strings.ReplaceAll(f.key, ".", "-") }

// env is the name of the environment variable.
func (f *field) env() string {
	return envPrefix + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(f.key))
}

// secret reports whether the value must never be shown.
func (f *field) secret() bool { return f.typ == reflect.TypeFor[Secret]() }

// list reports whether the value has many parts.
func (f *field) list() bool { return f.typ.Kind() == reflect.Slice }

// schema is all settings, in the order of the struct.
type schema []*field

// schemaOf reads the tags of a struct type. A wrong tag is a mistake in this package and panics.
func schemaOf(t reflect.Type) schema {
	return appendFields(nil, t, place{})
}

// settings is the schema of Config.
func settings() schema { return schemaOf(reflect.TypeFor[Config]()) }

// place is where fields are: in which section, and how Config gets there.
type place struct {
	prefix, title string
	index         []int
}

func appendFields(fields schema, t reflect.Type, in place) schema {
	for sf := range fieldsOf(t) {
		key := sf.Tag.Get("mapstructure")
		if key == "" {
			panic(fmt.Sprintf("config: %s.%s has no key", t, sf.Name))
		}
		at := append(slices.Clone(in.index), sf.Index...)
		if sf.Type.Kind() == reflect.Struct && sf.Type != reflect.TypeFor[Reserve]() {
			fields = appendFields(fields, sf.Type, place{in.prefix + key + ".", sf.Tag.Get("title"), at})
			continue
		}
		f := newField(in.prefix+key, at, sf)
		f.title = in.title
		fields = append(fields, f)
	}
	return fields
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

func newField(key string, index []int, sf reflect.StructField) *field {
	f := &field{
		key:     key,
		index:   index,
		typ:     sf.Type,
		def:     sf.Tag.Get("default"),
		shown:   sf.Tag.Get("shown"),
		help:    sf.Tag.Get("help"),
		min:     sf.Tag.Get("min"),
		max:     sf.Tag.Get("max"),
		check:   sf.Tag.Get("check"),
		often:   sf.Tag.Get("often") == "yes",
		envOnly: sf.Tag.Get("from") == "env",
		needed:  sf.Tag.Get("required") == "yes",
		reload:  sf.Tag.Get("reload") == "yes",
	}
	if list := sf.Tag.Get("oneof"); list != "" {
		f.oneOf = strings.Split(list, ",")
	}
	if _, err := f.defaultValue(); err != nil {
		panic(fmt.Sprintf("config: default of %s %v", key, err))
	}
	return f
}

// defaultValue is the default as a value of the field's type.
func (f *field) defaultValue() (reflect.Value, error) {
	if f.def == "" {
		return reflect.Zero(f.typ), nil
	}
	return f.parseText(f.def)
}

// of returns the field's value in a Config.
func (f *field) of(c *Config) reflect.Value { return reflect.ValueOf(c).Elem().FieldByIndex(f.index) }

// find returns the setting of that key.
func (s schema) find(key string) (*field, bool) {
	i := slices.IndexFunc(s, func(f *field) bool { return f.key == key })
	if i < 0 {
		return nil, false
	}
	return s[i], true
}

// section reports whether keys below name exist.
func (s schema) section(name string) bool {
	return slices.ContainsFunc(s, func(f *field) bool { return strings.HasPrefix(f.key, name+".") })
}

// sections returns the name of each section, once.
func (s schema) sections() []string {
	var all []string
	for _, f := range s {
		if section, _, nested := strings.Cut(f.key, "."); nested && !slices.Contains(all, section) {
			all = append(all, section)
		}
	}
	return all
}

// names returns one name of each setting.
func (s schema) names(of func(*field) string) []string {
	var names []string
	for _, f := range s {
		names = append(names, of(f))
	}
	return names
}

// kind is the type of value in one word, for help texts.
func (f *field) kind() string {
	switch f.typ {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[Reserve]():
		return "size or share"
	}
	switch f.typ.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Bool:
		return "bool"
	case reflect.Int:
		return "number"
	default:
		return "text"
	}
}

// Default returns the settings of an agent started without any. Name and Socket, which depend on the machine and on
// DataDir, are filled in by Load and by Complete.
func Default() Config {
	var c Config
	for _, f := range settings() {
		v, err := f.defaultValue()
		if err != nil {
			panic(err) // newField has tried it
		}
		f.of(&c).Set(v)
	}
	return c
}
