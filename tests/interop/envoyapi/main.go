// Command envoyapi compares the parts of others' protocols that proto/ speaks (envoy.*, google.rpc) with the descriptors that their
// owners publish for Go: every message, field, enum value and method that we have is theirs, under the same number, with the same name
// and type. What we leave out is no difference. A line of its output is one check, ok or FAIL, as the scripts print them.
package main

import (
	"fmt"
	"os"
	"strings"

	_ "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	_ "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	if len(os.Args) != 2 {
		exit("usage: envoyapi DESCRIPTORS")
	}
	bytes, err := os.ReadFile(os.Args[1])
	if err != nil {
		exit(err)
	}
	ours := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(bytes, ours); err != nil {
		exit(err)
	}
	found := compare(ours)
	for _, difference := range found.differences {
		fmt.Printf("FAIL  %s\n", difference)
	}
	if len(found.differences) == 0 && found.messages > 0 && found.methods > 0 {
		fmt.Printf("ok    %d messages with %d fields, %d enum values and %d methods are as their owners publish them\n",
			found.messages, found.fields, found.values, found.methods)
	} else if len(found.differences) == 0 {
		fmt.Println("FAIL  nothing of others' protocols in the descriptors")
	}
	planted, missed := plant(ours)
	for _, change := range missed {
		fmt.Printf("FAIL  nobody noticed: %s\n", change)
	}
	if planted > 0 && len(missed) == 0 {
		fmt.Printf("ok    each of %d changes to one of them is noticed\n", planted)
	}
	if len(found.differences)+len(missed) > 0 {
		os.Exit(1)
	}
}

func exit(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(2)
}

// findings is what a comparison comes to.
type findings struct {
	messages, fields, values, methods int
	differences                       []string
}

func (f *findings) differ(what protoreflect.Descriptor, format string, arguments ...any) {
	f.differences = append(f.differences, fmt.Sprintf("%s: %s", what.FullName(), fmt.Sprintf(format, arguments...)))
}

func isTheirs(name protoreflect.FullName) bool {
	return strings.HasPrefix(string(name), "envoy.") || strings.HasPrefix(string(name), "google.rpc")
}

// compare looks up everything of others in set.
func compare(set *descriptorpb.FileDescriptorSet) *findings {
	found := new(findings)
	files, err := protodesc.NewFiles(set)
	if err != nil {
		found.differences = []string{err.Error()}
		return found
	}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if isTheirs(file.Package()) {
			found.messagesOf(file.Messages())
			found.enumsOf(file.Enums())
			found.servicesOf(file.Services())
		}
		return true
	})
	return found
}

// official is the descriptor that the owner of name publishes.
func official[D protoreflect.Descriptor](f *findings, ours protoreflect.Descriptor) (D, bool) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(ours.FullName())
	theirs, ok := found.(D)
	if err != nil || !ok {
		f.differ(ours, "is not theirs")
	}
	return theirs, err == nil && ok
}

func (f *findings) messagesOf(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		ours := messages.Get(i)
		f.messages++
		f.messagesOf(ours.Messages())
		f.enumsOf(ours.Enums())
		if theirs, ok := official[protoreflect.MessageDescriptor](f, ours); ok {
			f.fieldsOf(ours, theirs)
		}
	}
}

func (f *findings) fieldsOf(ours, theirs protoreflect.MessageDescriptor) {
	for i := range ours.Fields().Len() {
		own := ours.Fields().Get(i)
		f.fields++
		other := theirs.Fields().ByNumber(own.Number())
		if other == nil {
			f.differ(own, "they have no field %d", own.Number())
			continue
		}
		if is, should := shape(own), shape(other); is != should {
			f.differ(own, "is %q, and theirs %q", is, should)
		}
	}
}

// shape is what a field is on the wire and in its text. A map is its entries.
func shape(field protoreflect.FieldDescriptor) string {
	shape := fmt.Sprintf("%s %s %s", field.Cardinality(), field.Kind(), field.Name())
	if field.IsPacked() {
		shape += " packed"
	}
	if message := field.Message(); message != nil {
		shape += " of " + string(message.FullName())
	}
	if enum := field.Enum(); enum != nil {
		shape += " of " + string(enum.FullName())
	}
	if oneof := field.ContainingOneof(); oneof != nil {
		shape += " in " + string(oneof.Name())
	}
	return shape
}

func (f *findings) enumsOf(enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		ours := enums.Get(i)
		theirs, ok := official[protoreflect.EnumDescriptor](f, ours)
		if !ok {
			continue
		}
		for j := range ours.Values().Len() {
			own := ours.Values().Get(j)
			f.values++
			if other := theirs.Values().ByNumber(own.Number()); other == nil || other.Name() != own.Name() {
				f.differ(own, "is not their %d", own.Number())
			}
		}
	}
}

func (f *findings) servicesOf(services protoreflect.ServiceDescriptors) {
	for i := range services.Len() {
		ours := services.Get(i)
		theirs, ok := official[protoreflect.ServiceDescriptor](f, ours)
		if !ok {
			continue
		}
		for j := range ours.Methods().Len() {
			own := ours.Methods().Get(j)
			f.methods++
			if other := theirs.Methods().ByName(own.Name()); other == nil || signature(own) != signature(other) {
				f.differ(own, "is not their method")
			}
		}
	}
}

func signature(method protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("%s %t %s %t", method.Input().FullName(), method.IsStreamingClient(), method.Output().FullName(),
		method.IsStreamingServer())
}

// plant changes one thing of set at a time, and says how many and which of them compare did not notice.
func plant(set *descriptorpb.FileDescriptorSet) (planted int, missed []string) {
	try := func(what string, change func() (undo func())) {
		planted++
		undo := change()
		if len(compare(set).differences) == 0 {
			missed = append(missed, what)
		}
		undo()
	}
	var inMessages func(messages []*descriptorpb.DescriptorProto)
	inMessages = func(messages []*descriptorpb.DescriptorProto) {
		for _, message := range messages {
			inMessages(message.NestedType)
			for _, field := range message.Field {
				name := message.GetName() + "." + field.GetName()
				try("another number of "+name, swap(&field.Number, field.GetNumber()+1000))
				try("another name of "+name, swap(&field.Name, "another"))
				if field.GetType() == descriptorpb.FieldDescriptorProto_TYPE_STRING {
					try("another type of "+name, swap(&field.Type, descriptorpb.FieldDescriptorProto_TYPE_BYTES))
				}
			}
		}
	}
	for _, file := range set.File {
		if !isTheirs(protoreflect.FullName(file.GetPackage())) {
			continue
		}
		inMessages(file.MessageType)
		for _, service := range file.Service {
			for _, method := range service.Method {
				try("another name of "+method.GetName(), swap(&method.Name, "Another"))
				try("a stream of "+method.GetName(), swap(&method.ServerStreaming, true))
			}
		}
	}
	return planted, missed
}

// swap puts value in place, until it is undone.
func swap[T any](place **T, value T) func() func() {
	return func() func() {
		before := *place
		*place = &value
		return func() { *place = before }
	}
}
