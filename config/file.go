package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/viper"
)

// DefaultDir is where files are looked for when no --config is given.
const DefaultDir = "/etc/holdfast"

const (
	mainName   = "agent.yaml"
	dropInDir  = "agent.d"
	fileMax    = 64 << 10 // bytes: far beyond a sensible file; decoders take seconds for some that are larger
	dropInsMax = 256

	fileFaultsMax = 100 // a file with more is something else altogether
)

var formats = map[string]string{".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}

// files returns the files to read, in order. An explicit main file must exist, the default one need not.
func files(main, dir string) (paths, warnings []string, err error) {
	explicit := main != ""
	if !explicit {
		main = filepath.Join(dir, mainName)
	}
	if _, err := os.Stat(main); explicit || !errors.Is(err, os.ErrNotExist) {
		paths = append(paths, main)
	}
	dropIns := filepath.Join(filepath.Dir(main), dropInDir)
	entries, err := os.ReadDir(dropIns) // in lexical order
	if errors.Is(err, os.ErrNotExist) {
		return paths, nil, nil
	}
	if err != nil {
		return paths, nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dropIns, e.Name())
		switch ext := filepath.Ext(e.Name()); {
		case e.IsDir() || strings.HasPrefix(e.Name(), "."):
		case ext == ".yaml":
			paths = append(paths, path)
		case formats[ext] != "":
			warnings = append(warnings, path+" is not read: only files named *.yaml are, rename it")
		}
	}
	if len(paths) > dropInsMax {
		return nil, nil, fmt.Errorf("%s has %d files, at most %d are read", dropIns, len(paths), dropInsMax)
	}
	return paths, warnings, nil
}

// readFile reads one file into a layer. Its faults name lines where the format tells them.
func (s schema) readFile(path string) (layer, []*Fault) {
	at := Origin{Layer: LayerFile, Name: path}
	format, ok := formats[filepath.Ext(path)]
	if !ok {
		return nil, []*Fault{{Origin: at, Problem: "the name of a configuration file must end in .yaml, .yml, .toml or .json"}}
	}
	content, err := readBounded(path)
	if err != nil {
		return nil, []*Fault{{Origin: at, Problem: err.Error(), Err: err}}
	}
	return s.decode(content, format, path)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err != nil {
		return nil, err
	}
	if len(content) > fileMax {
		return nil, fmt.Errorf("the file is larger than %s", Size(fileMax))
	}
	return content, nil
}

// decode turns the content of a file into a layer.
func (s schema) decode(content []byte, format, path string) (layer, []*Fault) {
	at := Origin{Layer: LayerFile, Name: path}
	decoder, err := viper.NewCodecRegistry().Decoder(format)
	if err != nil {
		return nil, []*Fault{{Origin: at, Problem: err.Error()}}
	}
	values := map[string]any{}
	if err := decoder.Decode(content, values); err != nil {
		at.Line = lineOf(content, err)
		return nil, []*Fault{{Origin: at, Problem: "cannot be read as " + strings.ToUpper(format) + ": " + err.Error()}}
	}
	where := linesOf(content, format)
	fl := flattener{schema: s, path: path, lines: where.lines, out: layer{}}
	for _, problem := range where.problems {
		fl.fault(problem.key, problem.text)
	}
	fl.flatten("", values)
	slices.SortStableFunc(fl.faults, func(a, b *Fault) int { return cmp.Compare(a.Origin.Line, b.Origin.Line) })
	return fl.out, fl.faults
}

// lineOf finds the line of a syntax error for the decoders that do not put it into the text.
func lineOf(content []byte, err error) int {
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := e.Position()
		return line
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return lineAt(content, int(e.Offset))
	}
	return 0
}

// flattener turns nested maps into keys with dots, and refuses what is no setting.
type flattener struct {
	schema schema
	path   string
	lines  map[string]int
	out    layer
	faults []*Fault
}

func (fl *flattener) origin(key string) Origin {
	o := Origin{Layer: LayerFile, Name: fl.path}
	for key != "" && o.Line == 0 {
		o.Line = fl.lines[key]
		key = key[:max(strings.LastIndexByte(key, '.'), 0)]
	}
	return o
}

func (fl *flattener) fault(key, problem string) {
	if len(fl.faults) > fileFaultsMax {
		return
	}
	if slices.ContainsFunc(fl.faults, func(f *Fault) bool { return f.Key == key && f.Problem == problem }) {
		return
	}
	if len(fl.faults) == fileFaultsMax {
		key, problem = "", fmt.Sprintf("the file has more than %d faults: the others are not shown", fileFaultsMax)
	}
	fl.faults = append(fl.faults, &Fault{Key: key, Origin: fl.origin(key), Problem: problem})
}

// flatten walks known sections only, so its depth is that of the schema.
func (fl *flattener) flatten(section string, values map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		key, raw := section+name, values[name]
		f, known := fl.schema.find(key)
		switch {
		case known && f.envOnly:
			fl.fault(key, "is a secret and not read from files: use "+key+"-file or "+f.env())
		case known:
			fl.add(f, raw)
		case fl.schema.section(key):
			fl.descend(key, raw)
		case len(fl.faults) <= fileFaultsMax:
			fl.fault(key, "there is no such key"+didYouMean(key, append(fl.schema.names((*field).name), fl.schema.sections()...)))
		}
	}
}

func (fl *flattener) add(f *field, raw any) {
	if _, twice := fl.out[f.key]; twice {
		fl.fault(f.key, "is set twice in this file")
		return
	}
	if raw != nil { // a key without a value is as good as commented out
		fl.out[f.key] = entry{raw: raw, origin: fl.origin(f.key)}
	}
}

func (fl *flattener) descend(section string, raw any) {
	switch below := raw.(type) {
	case nil:
	case map[string]any:
		fl.flatten(section+".", below)
	case map[any]any:
		named := make(map[string]any, len(below))
		for k, v := range below {
			named[fmt.Sprint(k)] = v
		}
		fl.flatten(section+".", named)
	default:
		fl.fault(section, "is a section: put its keys below it")
	}
}
